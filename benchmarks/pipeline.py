"""How much longer than bare decoding does preprocessing take? And the notes' way (dicomsdl + numexpr + a process pool),
and pydicom's? All four do the same files with the same number of processes, taking turns."""
import argparse
import csv
import io
import multiprocessing
import shutil
from functools import partial
from pathlib import Path

from common import cores, mammograms, table, take_turns

from mammo_kit.machine import notes_way, pydicom_way
from mammo_kit.pool import usable_cores
from mammo_kit.preprocess import preprocess


def decode(levels: dict[str, int], path: Path):
    "Nothing but the decoder, the fastest for its encoding, at the level of the manifest."
    import dicomsdl
    import imagecodecs
    import numpy as np
    from PIL import Image
    ds = dicomsdl.open_memory(path.read_bytes())
    frame = ds.getDataElement("PixelData").toPixelSequence().encodedFrameData(0)
    if ds.TransferSyntaxUID.endswith(".70"): return imagecodecs.jpeg8_decode(frame).shape
    if not (level := levels[path.name]): return imagecodecs.jpeg2k_decode(frame).shape
    picture = Image.open(io.BytesIO(frame))
    picture.reduce = level
    return np.asarray(picture).shape


def write(way, shape: tuple[int, int], out: Path, path: Path):
    (out / f"{path.stem}.png").write_bytes(way(path, shape))


def one_thread():
    import cv2
    import numexpr
    cv2.setNumThreads(1)
    numexpr.set_num_threads(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for what is made")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", default="1024x512")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, default=usable_cores())
    args = parser.parse_args()
    src, shape = mammograms(args.work, args.images), tuple(int(n) for n in args.size.split("x"))
    files = sorted(src.iterdir())

    def ours():
        shutil.rmtree(args.work / "ours", ignore_errors=True)
        return preprocess(src, args.work / "ours", args.size, workers=args.processes, progress=False)

    print(ours(), "·", cores())
    with open(args.work / "ours" / "manifest.csv") as f:
        levels = {r["path"]: int(r["level"]) for r in csv.DictReader(f)}
    print("levels:", sorted(levels[f.name] for f in files[:4]))

    def pooled(function):
        with multiprocessing.get_context("forkserver").Pool(args.processes, one_thread) as pool:
            for _ in pool.imap_unordered(function, files): pass

    (args.work / "theirs").mkdir(exist_ok=True)
    runs = {"bare decoding": partial(pooled, partial(decode, levels)), "mammo-kit preprocess": ours}
    for name, way in (("dicomsdl + numexpr", notes_way), ("pydicom", pydicom_way)):
        runs[name] = partial(pooled, partial(write, way, shape, args.work / "theirs"))
    table(take_turns(runs, args.repeats), len(files), "bare decoding")


if __name__ == "__main__":
    main()
