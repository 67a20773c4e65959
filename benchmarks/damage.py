"""Damaged files: how many are refused, how many read as pydicom reads them, and how many neither? And how many are read
although their pixels are no longer the same?"""
import argparse
import io
import warnings
from collections import Counter
from functools import partial

import numpy as np

from mammo_kit import phantom
from mammo_kit.pool import Lost, Pool, each, usable_cores

SYNTAXES = {phantom.JPEG_LOSSLESS: "JPEG lossless", phantom.JPEG_2000: "JPEG 2000",
            phantom.UNCOMPRESSED: "uncompressed"}


def overwrite(data, at, rng, n): return data[:at] + rng.bytes(n) + data[at + n:]


# What can happen to pixel data at the byte `at`; `n` is a number of bytes.
BODY = {
    "one bit flipped": lambda data, at, rng, n: data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1:],
    "1 to 4 bytes overwritten": lambda data, at, rng, n: overwrite(data, at, rng, 1 + n % 4),
    "16 to 1000 bytes overwritten": lambda data, at, rng, n: overwrite(data, at, rng, n),
    "16 to 1000 bytes zeroed": lambda data, at, rng, n: data[:at] + bytes(n) + data[at + n:],
    "16 to 1000 bytes lost": lambda data, at, rng, n: data[:at] + data[at + n:],
    "16 to 1000 bytes twice": lambda data, at, rng, n: data[:at] + data[at:at + n] + data[at:],
    "cut, the end put back": lambda data, at, rng, n: data[:at] + data[-10:],
}
HEADER = {
    "header: 1 to 4 bytes overwritten": lambda data, at, rng, n: overwrite(data, at, rng, 1 + n % 4),
    "file cut off": lambda data, at, rng, n: data[:at],
}


def damaged(data: bytes, kind: str, seed: int) -> bytes:
    "`data` with this kind of damage, at a place that `seed` chooses; the fragment's length is put right."
    rng = np.random.default_rng(seed)
    pixels = data.rindex(b"\xe0\x7f\x10\x00")
    first, last = (132, pixels + 12) if kind.startswith("header") else (pixels + 60, len(data) - 1020)
    at = int(rng.integers(first, last))
    bad = (BODY | HEADER)[kind](data, at, rng, int(rng.integers(16, 1001)))
    fragment = data.rfind(b"\xfe\xff\x00\xe0", pixels, pixels + 60)
    if kind in BODY and fragment >= 0:
        length = int.from_bytes(data[fragment + 4:fragment + 8], "little") + len(bad) - len(data)
        bad = bad[:fragment + 4] + length.to_bytes(4, "little") + bad[fragment + 8:]
    return bad


def outcome(files: dict[str, bytes], job: tuple[str, str, int]) -> str:
    "What becomes of a damaged file."
    from pydicom import dcmread

    from mammo_kit.dicom import read_bytes
    name, kind, seed = job
    bad = damaged(files[name], kind, seed)
    try: ours = read_bytes(bad).pixels
    except ValueError: return "refused"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: theirs = dcmread(io.BytesIO(bad)).pixel_array
        except Exception: return "read, refused by pydicom"  # noqa: BLE001 it raises what it comes upon
    if ours.shape != theirs.shape or (ours != theirs).any(): return "read, not as pydicom"
    same = np.array_equal(ours, read_bytes(files[name]).pixels)
    return "read as pydicom, unchanged" if same else "read as pydicom, changed"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=300, help="files of each encoding and kind of damage")
    args = parser.parse_args()
    files = {}
    for syntax in SYNTAXES:
        machine = next(m for m in phantom.MACHINES.values() if m.transfer_syntax == syntax)
        picture = phantom.mammogram(5, shape=(256, 208), pixel_spacing_mm=.88)
        buffer = io.BytesIO()
        phantom.dicom_dataset(phantom.stored_values(picture.pixels, machine), machine, patient_id=1, image_id=2,
                              laterality="L", view="CC", pixel_spacing_mm=.88).save_as(buffer, enforce_file_format=True)
        files[syntax] = buffer.getvalue()
    jobs = [(s, kind, seed) for s in SYNTAXES for kind in BODY | HEADER for seed in range(args.each)]
    counts = {}
    for (syntax, kind, _), result in each(partial(outcome, files), jobs, Pool(usable_cores()), timeout=20):
        counts.setdefault((syntax, kind), Counter())[result.reason if isinstance(result, Lost) else result] += 1
    columns = list(dict.fromkeys(["refused", "read as pydicom, unchanged", "read as pydicom, changed",
                                  *(k for c in counts.values() for k in c)]))
    print(f"| | | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for (syntax, kind), found in counts.items():
        print(f"| {SYNTAXES[syntax]} | {kind} | {' | '.join(str(found[c]) for c in columns)} |")
    total = sum(counts.values(), Counter())
    print(f"| all | | {' | '.join(str(total[c]) for c in columns)} |")


if __name__ == "__main__":
    main()
