"""How long would each stage take on Kaggle for all of RSNA 2022, and how much disk? Measured on a few mammograms here,
on one core, and multiplied: by the number of files, and divided by Kaggle's four cores. The GPU's part is not in it."""
import argparse
import shutil
import time
from pathlib import Path

import pandas as pd
from common import cores, mammograms
from torch.utils.data import DataLoader

from mammo_kit.dataset import ShardImages, augment, images
from mammo_kit.preprocess import preprocess

TRAIN, TEST = 54_706, round(8_000 * 54_706 / 11_913)  # images; 8,000 hidden patients with as many images each
CORES = 4                                             # of a Kaggle session
EPOCHS, FOLDS = 8, 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for what is made")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--sizes", nargs="+", default=["512x256", "1024x512", "2048x1024"])
    args = parser.parse_args()
    src = mammograms(args.work, args.images)
    print(cores())
    heads = ("size", "preprocess, ms a core", "an image", "loader, images/s a core", "preprocess", "its disk",
             "feeding train, a fold", "infer's images", "their disk")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for size in args.sizes:
        out = args.work / f"stage_{size}"
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        preprocess(src, out, size, workers=1, progress=False)
        hours = (time.perf_counter() - start) / args.images / 3600
        gb = sum(f.stat().st_size for f in (out / "shards").iterdir()) / args.images / 1e9
        data = ShardImages(out, pd.concat([images(out)] * 3, ignore_index=True), None, augment)
        loader = DataLoader(data, 8, num_workers=1, persistent_workers=True)
        for _ in loader: pass  # the worker starts
        start = time.perf_counter()
        for _ in loader: pass
        rate = len(data) / (time.perf_counter() - start)
        feeding = EPOCHS * TRAIN * (FOLDS - 1) / FOLDS / (CORES * rate) / 3600
        print(f"| {size} | {hours * 3.6e6:.0f} | {gb * 1e6:.0f} kB | {rate:.0f} | {TRAIN * hours / CORES:.1f} h "
              f"| {TRAIN * gb:.1f} GB | {feeding:.1f} h | {TEST * hours / CORES:.1f} h | {TEST * gb:.1f} GB |")


if __name__ == "__main__":
    main()
