"""How many artifacts do the rules of the picture find, and how often do they fire on healthy pictures? On phantoms and
films that were not looked at when thresholds were chosen; tests/test_artifacts.py compares the table with README.md."""
import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import sqrt
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from common import SHARED

from mammo_kit.artifacts import ARTIFACT_RULES, artifact_scores
from mammo_kit.breast import find_breast
from mammo_kit.dicom import open_bytes
from mammo_kit.faults import ARTIFACTS, HEALTHY, draw_artifact, healthy
from mammo_kit.look import Pyramid, look
from mammo_kit.phantom import Phantom
from mammo_kit.windowing import display

STRENGTHS = 0, .25, .5, .75, 1
SEED, PHANTOMS, NEIGHBOURS = 20_000, 24, 30  # the thresholds were chosen on seeds below 10,000
TUNED_ON = 61  # patients of mias, the first ones, whose films served to choose thresholds


def fired(pixels: np.ndarray) -> dict[str, float]:
    "The rules that fire on a picture of values from 0 to 1, and their scores."
    grey = np.rint(255 * pixels).astype(np.float32)
    level = max(0, int(np.log2(max(grey.shape) / 192)))
    h, w = (n >> level for n in grey.shape)
    small = cv2.resize(grey[:h << level, :w << level], (w, h), interpolation=cv2.INTER_AREA)
    scores = artifact_scores(small, find_breast(small))
    return {rule: score for rule, (score, _) in scores.items() if ARTIFACT_RULES[rule].fires(score)}


def on_phantom(i: int) -> list[tuple]:
    "(where, rule or kind, strength, fired) of every artifact at every strength on the i-th phantom."
    base = healthy(HEALTHY[i % len(HEALTHY)], SEED + i)
    return [("phantom", rule, s, fired(draw_artifact(base, rule, s, SEED + i)[0].pixels))
            for rule in ARTIFACTS for s in STRENGTHS]


def on_neighbour(kind: str, i: int) -> list[tuple]:
    return [("healthy", kind, 0, fired(healthy(kind, SEED + 1000 + i).pixels))]


def as_phantom(file: Path) -> Phantom:
    "A real mammogram, as its header asks for it, what is wrong with that mended."
    frame = open_bytes(file.read_bytes(), file.name)
    seen = look(Pyramid(frame), ("eight_bit_pixels", "window_outside_range"))
    image = frame.read()
    grey = display(type(image)(image.pixels, seen.header))
    side = "L" if seen.breast.chest_wall == "left" else "R"
    return Phantom(np.float32(grey) / 255, seen.breast.mask_at(grey.shape), (), side, "MLO", "B", .2)


def on_film(i: int, file: Path) -> list[tuple]:
    base = as_phantom(file)
    drawn = [("film", rule, s, fired(draw_artifact(base, rule, s, SEED + i)[0].pixels))
             for k, rule in enumerate(ARTIFACTS) for s in [STRENGTHS[(i + k) % len(STRENGTHS)]]]
    return [("untouched", file.stem, 0, fired(base.pixels)), *drawn]


def jobs(real: bool) -> list[partial]:
    some = [partial(on_phantom, i) for i in range(PHANTOMS)]
    some += [partial(on_neighbour, kind, i) for kind in HEALTHY for i in range(NEIGHBOURS)]
    if real:
        patients = sorted((SHARED / "mias" / "train_images").iterdir())[TUNED_ON:]
        some += [partial(on_film, i, f) for i, f in enumerate(f for p in patients for f in sorted(p.iterdir()))]
    return some


def _do(job: partial) -> list[tuple]:
    cv2.setNumThreads(1)
    return job()


def measure(real: bool, workers: int = 2) -> list[tuple]:
    "(where, rule or kind or image, strength, fired) of every picture."
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return [row for rows in pool.map(_do, jobs(real), chunksize=4) for row in rows]


def wilson(k: int, n: int) -> tuple[float, float]:
    "Bounds of 95 % for a share of which k of n were seen (Wilson, JASA 22:209, 1927)."
    z = 1.96
    middle, half = (k + z * z / 2) / (n + z * z), z * sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return max(0, middle - half), min(1, middle + half)


def counts(rows: list[tuple]) -> dict[str, Counter]:
    "By rule: found and drawn on phantoms and on films, and fired and seen on healthy phantoms."
    by_rule = {rule: Counter() for rule in ARTIFACT_RULES if rule in ARTIFACTS}
    for where, what, _, alarms in rows:
        if where in ("phantom", "film"): by_rule[what].update({f"{where} n": 1, where: what in alarms})
        for rule in by_rule:
            if where in ("healthy", "untouched"): by_rule[rule].update({f"{where} n": 1, where: rule in alarms})
    return by_rule


def table(by_rule: dict[str, Counter]) -> str:
    def cell(count, where):
        k, n = count[where], count[f"{where} n"]
        if not n: return "–"
        low, high = wilson(k, n)
        return f"{k}/{n} ({low:.3f} to {high:.3f})"

    head = ("rule", "found, phantoms", "found, films", "false alarms, healthy phantoms", "fired, untouched films")
    rows = [[f"`{rule}`", *(cell(count, where) for where in ("phantom", "film", "healthy"))]
            + [f"{count['untouched']}/{count['untouched n']}"] for rule, count in by_rule.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def milliseconds(n: int = 60) -> tuple[float, float]:
    "Of all rules together on one small picture: median, and the slowest of twenty."
    cv2.setNumThreads(1)
    pixels = (255 * healthy(HEALTHY[i % len(HEALTHY)], SEED + i).pixels for i in range(n))
    small = [cv2.resize(p, (208, 256), interpolation=cv2.INTER_AREA) for p in pixels]
    found, seconds = [find_breast(grey) for grey in small], []
    for grey, breast in zip(small, found):
        start = time.perf_counter()
        artifact_scores(grey, breast)
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds)), 1e3 * float(np.quantile(seconds, .95))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missed", action="store_true", help="list what was not found")
    parser.add_argument("--alarms", action="store_true", help="list what fired on healthy phantoms and untouched films")
    args = parser.parse_args()
    start, real = time.perf_counter(), (SHARED / "mias").is_dir()
    print("all rules: {:.1f} ms a picture, 95 % are below {:.1f} ms".format(*milliseconds()))
    rows = measure(real)
    print(table(counts(rows)))
    for where, what, strength, alarms in rows:
        if args.missed and where in ("phantom", "film") and what not in alarms: print("missed", where, what, strength)
        if args.alarms and where in ("healthy", "untouched"):
            for rule, score in alarms.items(): print("alarm", where, what, rule, f"{score:.4g}")
    print(f"{len(rows)} pictures, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__": main()
