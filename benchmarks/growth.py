"Do the time and memory of the run itself, not of its workers, stay flat as images grow? Tiny images, many of them."
import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import cores

from mammo_kit.phantom import MACHINES, Phantom, write_dicom


def make(folder: Path, n: int):
    "`n` files of 32x32 pixels, a hundred in a folder, all the same."
    first = folder.parent / "tiny.dcm"
    first.parent.mkdir(parents=True)
    y, x = np.mgrid[:32, :32]
    breast = (x**2 + (y - 16)**2 < 200).astype(np.float32) * .6
    picture = Phantom(breast, breast > 0, (), "L", "CC", "B", 1.)
    write_dicom(first, picture, MACHINES[93], 1, 2)
    for i in range(n):
        patient = folder / "train_images" / str(i // 100)
        if i % 100 == 0:
            patient.mkdir(parents=True)
            shutil.copy(first, patient / f"{i}.dcm")
        else: (patient / f"{i}.dcm").hardlink_to(patient / f"{i - i % 100}.dcm")


def one(src: Path, out: Path):
    "In a process of its own: preprocess, and print what it took the parent."
    from mammo_kit.preprocess import preprocess
    start = time.perf_counter()
    summary = preprocess(src, out, "32x16", progress=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    n = summary.counts["ok"]
    print(f"| {n:,} | {time.perf_counter() - start:.0f} s | {1e3 * (used.ru_utime + used.ru_stime) / n:.3f} ms | "
          f"{used.ru_maxrss / 1024:.0f} MiB |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for what is made, removed afterwards")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    args = parser.parse_args()
    print(cores())
    print("| images | in all | processor time of the parent, an image | its peak memory |")
    print("|---|---|---|---|", flush=True)
    for n in args.images:
        work = args.work / "growth"
        shutil.rmtree(work, ignore_errors=True)
        make(work / "src", n)
        subprocess.run([sys.executable, __file__, work / "src", "--one", work / "out"], check=True)
        shutil.rmtree(work)


if __name__ == "__main__":
    if "--one" in sys.argv: one(Path(sys.argv[1]), Path(sys.argv[3]))
    else: main()
