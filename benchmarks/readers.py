"Milliseconds from a file to its stored pixels: pydicom with each of its plug-ins, dicomsdl, ours; and ours by level."
import argparse
import statistics
import time
from pathlib import Path

from common import cores, mammograms

from mammo_kit.dicom import open_bytes
from mammo_kit.machine import readers_table, time_readers


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for what is made")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    files, timings, reducible = {}, {}, None
    for file in sorted(mammograms(args.work, 4).iterdir()):
        frame = open_bytes(file.read_bytes())
        files.setdefault(frame.header.transfer_syntax_uid, []).append(file)
        if frame.levels: reducible = frame
    print(cores())
    time_readers(files, timings, args.repeats)
    print(readers_table(timings))
    print("\n| level of JPEG 2000 | ms |\n|---|---|")
    for level in range(5):
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            reducible.read(level)
            seconds.append(time.perf_counter() - start)
        print(f"| {level} | {1e3 * statistics.median(seconds):.1f} |")


if __name__ == "__main__":
    main()
