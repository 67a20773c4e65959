"What the benchmarks share: mammograms of the usual size, and runs that take turns."
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def mammograms(work: Path, n: int) -> Path:
    """A folder of `n` mammograms of 3328x2560 pixels, 12 bits, as many JPEG lossless (.70) as JPEG 2000 (.90): links to
    the two real ones of ../shared/data/mg, or to two phantoms where that is absent."""
    pictures = [SHARED / "mg" / f"1_{side}_CC_{kind}.dcm" for side in "LR" for kind in ("jll", "j2k")]
    if not pictures[0].exists(): pictures = _phantoms(work / "phantoms")
    folder = work / f"mammograms_{n}"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        link = folder / f"{i:05d}.dcm"
        if not link.is_symlink(): link.symlink_to(pictures[i % 4].resolve())
    return folder


def _phantoms(folder: Path) -> list[Path]:
    from dataclasses import replace

    from mammo_kit import phantom
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for side in "LR":
        breast = phantom.mammogram(1, side, "CC", "C", shape=(3328, 2560), pixel_spacing_mm=.07)
        for syntax in (phantom.JPEG_LOSSLESS, phantom.JPEG_2000):
            files.append(folder / f"{side}_{syntax}.dcm")
            machine = replace(phantom.MACHINES[49], transfer_syntax=syntax)
            if not files[-1].exists(): phantom.write_dicom(files[-1], breast, machine, 1, 2)
    return files


def take_turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    "Seconds of each run, done one after the other, again and again, so that a slow minute of the machine hits all."
    seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: dict[str, list[float]], images: int, reference: str):
    "Print ms an image (median, range) and the median over the turns of the ratio to `reference`."
    print(f"| | ms an image | range | times `{reference}` |\n|---|---|---|---|")
    for name, values in seconds.items():
        ms = [1e3 * v / images for v in values]
        ratio = statistics.median(v / r for v, r in zip(values, seconds[reference], strict=True))
        print(f"| {name} | {statistics.median(ms):.1f} | {min(ms):.1f} to {max(ms):.1f} | {ratio:.2f} |")


def cores() -> str:
    from mammo_kit.pool import usable_cores
    return f"{usable_cores()} usable cores, load {os.getloadavg()[0]:.1f} at the start"
