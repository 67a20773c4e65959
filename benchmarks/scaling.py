"Images a second over the number of processes."
import argparse
import shutil
from functools import partial
from pathlib import Path

from common import cores, mammograms, take_turns

from mammo_kit.pool import usable_cores
from mammo_kit.preprocess import preprocess


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for what is made")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    n = usable_cores()
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, max(1, n // 2), n, 2 * n}))
    args = parser.parse_args()
    src = mammograms(args.work, args.images)

    def run(processes: int):
        shutil.rmtree(args.work / "ours", ignore_errors=True)
        preprocess(src, args.work / "ours", workers=processes, progress=False)

    print(cores())
    seconds = take_turns({p: partial(run, p) for p in args.processes}, args.repeats)
    print("| processes | images a second | times one process |\n|---|---|---|")
    best = {p: args.images / min(values) for p, values in seconds.items()}
    for p in args.processes: print(f"| {p} | {best[p]:.1f} | {best[p] / best[args.processes[0]]:.2f} |")


if __name__ == "__main__":
    main()
