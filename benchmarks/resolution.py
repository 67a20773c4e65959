"""How far is a picture that was decoded at a lower resolution from the same picture decoded in full? And can its
texture tell how it had been encoded?"""
import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from common import SHARED

from mammo_kit.dicom import Frame, open_bytes, reduce
from mammo_kit.pool import usable_cores
from mammo_kit.preprocess import Settings, prepare

SIZES = (1536, 768), (1024, 512), (768, 384), (512, 256), (384, 192), (256, 128)


def as_jpeg_2000(frame: Frame) -> Frame:
    "What the frame would be if it were stored as JPEG 2000: tests/test_resolution.py shows that the levels are equal."
    image, bits = frame.read(), frame.header.bits_stored
    return replace(frame, levels=5, decoder=lambda level: replace(
        image, pixels=reduce(image.pixels, level, bits), level=level))


def decibels(file: Path) -> list[tuple[tuple[int, int], int, float]]:
    "(size, level, PSNR of the content against full resolution) at each size."
    try: frame = as_jpeg_2000(open_bytes(file.read_bytes(), file.name))
    except (ValueError, OSError): return []
    found = []
    for size in SIZES:
        fast, full = (prepare(frame, Settings(*size, full_resolution=f)) for f in (False, True))
        assert fast.box == full.box
        content = full.pixels != full.pixels[0, -1]  # without what the frame was filled up with
        rows, columns = content.any(1), content.any(0)
        pair = [p.pixels[rows][:, columns] for p in (fast, full)]
        if fast.level: found.append((size, fast.level, cv2.PSNR(*pair)))
        else: found.append((size, 0, float("inf")))
    return found


def quality(name: str, files: list[Path]):
    with ProcessPoolExecutor(usable_cores()) as pool: found = [f for fs in pool.map(decibels, files) for f in fs]
    for size in SIZES:
        here = [(level, db) for s, level, db in found if s == size]
        for level in sorted({level for level, _ in here} - {0}):
            db = [d for v, d in here if v == level]
            print(f"| {name} | {size[0]}x{size[1]} | {level} | {len(db)} of {len(here)} | {min(db):.1f} | "
                  f"{statistics.median(db):.1f} | {sum(d < 40 for d in db)} |")


def spectrum(patch: np.ndarray) -> np.ndarray:
    "The texture of a patch: log power in rings of the Fourier plane, horizontal and vertical apart."
    fade = np.hanning(len(patch))
    power = np.abs(np.fft.fftshift(np.fft.fft2((patch - patch.mean()) * fade[:, None] * fade))) ** 2
    y, x = np.indices(power.shape) - len(patch) // 2
    ring, steep = np.hypot(x, y).astype(int), abs(y) > abs(x)
    return np.log([power[(ring == r) & (steep == s)].mean() + 1e-9 for r in range(1, len(patch) // 2) for s in (0, 1)])


def patches(file: Path) -> list[tuple[str, int, np.ndarray]]:
    """(way, place, spectrum) of patches of one picture stored as JPEG 2000, as something else, and as something else
    that is merely decoded in full and averaged."""
    frame, found = open_bytes(file.read_bytes(), file.name), []
    settings = Settings(512, 256)
    pictures = {"JPEG 2000": prepare(as_jpeg_2000(frame), settings),
                "other, brought to its level": prepare(replace(frame, levels=0), settings),
                "other, decoded in full and averaged": prepare(frame, replace(settings, full_resolution=True))}
    if pictures["JPEG 2000"].level == 0: return []
    for way, p in pictures.items():
        for place, (top, left) in enumerate((t, c) for t in range(0, 512 - 48, 48) for c in range(0, 256 - 48, 48)):
            patch = p.pixels[top:top + 48, left:left + 48].astype(float)
            if patch.min() > 20: found.append((way, place, spectrum(patch)))
    return found


def guess(files: list[Path]):
    "AUROC of a classifier that shall tell how a patch of an unseen patient's picture was stored."
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    with ProcessPoolExecutor(usable_cores()) as pool: found = list(pool.map(patches, files))
    patients = [f.parent.name for f in files]
    order = sorted(set(patients))
    held_out = set(order[::3])
    for way in ("other, brought to its level", "other, decoded in full and averaged"):
        x, y, test = [], [], []
        for i, (patient, some) in enumerate(zip(patients, found, strict=True)):
            for w, place, features in some:
                # A patch has one encoding in life: each is seen in one only, by turns.
                if w == (way if (i + place) % 2 else "JPEG 2000"):
                    x.append(features)
                    y.append(w == way)
                    test.append(patient in held_out)
        x, y, test = np.array(x), np.array(y), np.array(test)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x[~test], y[~test])
        auroc = roc_auc_score(y[test], model.predict_proba(x[test])[:, 1])
        print(f"| {way} | {(~test).sum()} | {test.sum()} | {auroc:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    if not SHARED.exists(): parser.error("this needs the real mammograms of ../shared/data")
    films = sorted((SHARED / "mias" / "train_images").glob("*/*.dcm"))
    print("| pictures | size | level | pictures at it | least dB | median dB | under 40 dB |")
    print("|---|---|---|---|---|---|---|")
    quality("digital, 3328x2560", [SHARED / "mg" / f"1_{side}_CC_j2k.dcm" for side in "LR"])
    quality("digital, 4095x2559", [SHARED / "mg" / "GH133.dcm"])
    quality("film, 1024x1024", films)
    print("\n| JPEG 2000 against | patches learnt from | patches of others | AUROC |\n|---|---|---|---|")
    guess(films)


if __name__ == "__main__":
    main()
