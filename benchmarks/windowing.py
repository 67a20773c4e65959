"One mammogram of 3328x2560 pixels through its window: by table, by numexpr, by numpy, by pydicom. And wide integers."
import argparse
import statistics
import time
from dataclasses import replace

import cv2
import numexpr
import numpy as np
import pydicom
from common import cores
from pydicom.pixels import apply_voi_lut

from mammo_kit import windowing
from mammo_kit.dicom import Header, Image
from mammo_kit.pool import usable_cores


def linear_by_numexpr(x, c, w):
    out = np.empty(x.shape, np.uint8)
    a, b = 255 / (w - 1), 128 - 255 * (c - .5) / (w - 1)
    formula = "where(x * a + b > 0.5, where(x * a + b < 255.5, x * a + b, 255.5), 0.5)"
    return numexpr.evaluate(formula, {"x": x, "a": a, "b": b}, {}, out=out, casting="unsafe")


def linear_by_numpy(x, c, w):
    return (np.clip((x - (c - .5)) / (w - 1) + .5, 0, 1) * 255 + .5).astype(np.uint8)


def sigmoid_by_numpy(x, c, w):
    return (255 / (1 + np.exp(-4 * (x - c) / w)) + .5).astype(np.uint8)


def linear_by_pydicom(x, ds):
    return (apply_voi_lut(x, ds) * (255 / (2**ds.BitsStored - 1)) + .5).astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    c, w = 2000., 3000.
    x = np.random.default_rng(0).integers(0, 4096, (3328, 2560)).astype(np.uint16)
    header = Header(bits_stored=12, bits_allocated=16, window_center=(c,), window_width=(w,),
                    photometric_interpretation="MONOCHROME2")
    ds = pydicom.Dataset()
    ds.BitsStored, ds.PixelRepresentation, ds.PhotometricInterpretation = 12, 0, "MONOCHROME2"
    ds.WindowCenter, ds.WindowWidth = c, w
    image = Image(x, header)
    wide = Image(x.astype(np.int32), replace(header, bits_stored=32, bits_allocated=32))
    sigmoid = replace(wide, header=replace(wide.header, voi_lut_function="SIGMOID"))
    table = windowing.lookup_table(header, np.uint16)
    ways = {
        "mammo_kit, cv2.LUT": lambda: windowing.display(image),
        "np.take of the table (OpenCV before 4.13)": lambda: np.take(table, x),
        "numexpr": lambda: linear_by_numexpr(x, c, w),
        "numpy": lambda: linear_by_numpy(x, c, w),
        "pydicom": lambda: linear_by_pydicom(x, ds),
        "32 bits: mammo_kit (numexpr)": lambda: windowing.display(wide),
        "32 bits: numpy": lambda: linear_by_numpy(wide.pixels, c, w)}
    sigmoids = {
        "32 bits, SIGMOID: mammo_kit (numexpr)": lambda: windowing.display(sigmoid),
        "32 bits, SIGMOID: numpy": lambda: sigmoid_by_numpy(wide.pixels, c, w)}
    expected = linear_by_numpy(x, c, w).astype(int)
    for name, way in ways.items(): assert abs(way() - expected).max() <= 1, name
    few, many = 1, usable_cores()
    print(cores())
    print(f"| | ms, 1 thread | ms, {many} threads |\n|---|---|---|")
    seconds = {(name, threads): [] for name in ways | sigmoids for threads in (few, many)}
    for _ in range(args.repeats):
        for name, way in (ways | sigmoids).items():
            for threads in (few, many):
                cv2.setNumThreads(threads)
                numexpr.set_num_threads(threads)
                start = time.perf_counter()
                way()
                seconds[name, threads].append(time.perf_counter() - start)
    for name in ways | sigmoids:
        print(f"| {name} | {' | '.join(f'{1e3 * statistics.median(seconds[name, n]):.1f}' for n in (few, many))} |")


if __name__ == "__main__":
    main()
