"Preprocessing whatever happens on the way: bad files, crashes, hangs, kills, full disks, lost files, and two at once."
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from test_cluster import dask, needs_dask

from mammo_kit import phantom
from mammo_kit.competition import open_source
from mammo_kit.dataset import images, read_image
from mammo_kit.dicom import read
from mammo_kit.preprocess import Input, Settings, Stopped, join, load_settings, parse_size, preprocess, process

TABLES = "manifest.csv", "alarms.csv"  # of what is done so far
SMALL = {"size": "128x64", "shard_size": 4, "workers": 2, "progress": False}

# Workers import the main script too, as __mp_main__: so it can make them do to a file what its name says.
SCRIPT = '''
import json, os, signal, sys, time
from pathlib import Path
from mammo_kit import preprocess as p

real, words = p.open_bytes, os.environ.get("SABOTAGE", "").split()

def open_bytes(data, name):
    time.sleep(float(os.environ.get("SLOW", 0)))
    word = next((w for w in words if w in name), None)
    if word == "once" and not Path(os.environ["MARK"]).exists():
        Path(os.environ["MARK"]).touch()
        word = "SEGV"
    if word == "hang": time.sleep(1000)
    if word == "exit": os._exit(3)
    if word == "mistake": raise TypeError("not foreseen")
    if word == "crash": word = "SEGV"
    if word in ("SEGV", "ABRT", "KILL", "TERM"): os.kill(os.getpid(), getattr(signal, "SIG" + word))
    return real(data, name)

p.open_bytes = open_bytes
if __name__ == "__main__":
    src, out, options = sys.argv[1:]
    summary = p.preprocess(Path(src), Path(out), **json.loads(options))
    print(summary)
    sys.exit(summary.exit_status)
'''


@pytest.fixture(scope="module")
def src(tmp_path_factory):
    "A competition with four machines: .70, .90, MONOCHROME1 and a VOI LUT among them."
    out = tmp_path_factory.mktemp("competition") / "src"
    return phantom.make_competition(out, patients=4, test_patients=1, scale=.15, workers=1, progress=False)


@pytest.fixture(scope="module")
def undisturbed(src, tmp_path_factory):
    "All files of a run that nothing disturbed, by name."
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    summary = preprocess(src, out, **SMALL | {"workers": 1})
    assert summary.counts["ok"] == len(manifest(out)) > 14 and summary.exit_status == 0
    return tree(out)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    "start(src, out, SABOTAGE='hang', **options): a run in a session of its own, as a Popen."
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)

    def start(src, out, env=None, **options):
        return subprocess.Popen([sys.executable, script, src, out, json.dumps(SMALL | options)], text=True,
                                env=os.environ | {"MARK": str(script.parent / "mark")} | (env or {}),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    return start


def finish(run, timeout=60):
    "Exit status and output of a run; nothing of it is left."
    said, _ = run.communicate(timeout=timeout)
    assert not survivors(run)
    return run.returncode, said


def members(run):
    "{pid: (parent, command line)} of the living processes in the session of a run."
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == run.pid and state != "Z":
                found[int(folder.name)] = int(parent), (folder / "cmdline").read_text()
        except (OSError, ValueError):
            pass
    return found


def fork_servers(run):
    return [pid for pid, (parent, command) in members(run).items() if parent == run.pid and "forkserver" in command]


def workers(run):
    servers = fork_servers(run)
    return [pid for pid, (parent, _) in members(run).items() if parent in servers]


def survivors(run, seconds=5):
    "What is left of an ended run after a few seconds."
    until = time.monotonic() + seconds
    while (left := members(run)) and time.monotonic() < until:
        time.sleep(.05)
    return left


def wait_for(path, run):
    until = time.monotonic() + 30
    while not path.exists():
        assert run.poll() is None and time.monotonic() < until, f"{path} did not come"
        time.sleep(.01)


def tree(out):
    return {f.relative_to(out).as_posix(): f.read_bytes() for f in sorted(out.rglob("*"))
            if f.is_file() and f.name != ".lock"}


def manifest(out):
    with open(out / "manifest.csv", encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def stored(out, row):
    "The bytes of an image by the manifest; tar agrees."
    tar = out / "shards" / f"{int(row['shard']):05d}.tar"
    data = tar.read_bytes()[int(row["offset"]):][:int(row["length"])]
    with tarfile.open(tar) as t:
        assert t.extractfile(row["member"]).read() == data
    return data


def picture(out, row):
    return cv2.imdecode(np.frombuffer(stored(out, row), np.uint8), cv2.IMREAD_UNCHANGED)


def of_syntax(src, end):
    return next(f for f in sorted(src.rglob("*.dcm")) if read(f).header.transfer_syntax_uid.endswith(end))


def changed(file, **attributes):
    "The bytes of a DICOM file with other attributes; None deletes one."
    ds = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def uncompressed(file, syntax="1.2.840.10008.1.2.1"):
    ds = pydicom.dcmread(file)
    ds.decompress()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


# ---- bad files


def test_every_bad_file_is_a_row_with_its_reason(src, tmp_path):
    lossless, j2k = of_syntax(src, ".70"), of_syntax(src, ".90")
    native = tmp_path / "native.dcm"
    native.write_bytes(uncompressed(lossless))
    rows, columns = read(lossless).pixels.shape
    rng, deflated = random.Random(0), uncompressed(lossless, "1.2.840.10008.1.2.1.99")
    sof, siz = lossless.read_bytes().rindex(b"\xff\xc3") + 5, j2k.read_bytes().index(b"\xff\x4f\xff\x51") + 8

    def patched(file, at, code, *values):
        return file.read_bytes()[:at] + (p := struct.pack(code, *values)) + file.read_bytes()[at + len(p):]

    bad = {
        "cut_native.dcm": (native.read_bytes()[:-1000], "cut off"),
        "cut_lossless.dcm": (lossless.read_bytes()[:-1000], "cut off"),
        "cut_j2k.dcm": (j2k.read_bytes()[:2000], "cut off"),
        "cut_header.dcm": (j2k.read_bytes()[:600], "no Pixel Data .* cut off before it$"),
        "empty.dcm": (b"", "the file is empty"),
        "text.dcm": (b"patient_id,cancer\n1,0\n" * 20, "not a DICOM file"),
        "rows.dcm": (changed(j2k, Rows=9999), "Rows x Columns promise 9999x"),
        "rows_native.dcm": (changed(native, Rows=9999), "9999x.* need"),
        # dicomsdl's decoder would crash on the next two.
        "syntax.dcm": (changed(native, Rows=60000).replace(b"10008.1.2.1\0", b"10008.1.9.9\0"), "1.9.9: not for"),
        "deflated.dcm": (deflated[:1000] + rng.randbytes(1000) + deflated[2000:], "header cannot be read: Error -3"),
        "no_pixels.dcm": (changed(native, PixelData=b""), "hold 0 bytes"),
        "no_pixel_data.dcm": (changed(native, PixelData=None), "no Pixel Data"),
        "rgb.dcm": (changed(native, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "^colour 1: .*is RGB.*expect"),
        "frames.dcm": (changed(native, NumberOfFrames=3), "^multi_frame 3: .*is 3, expected 1"),
        # Decoding these first and asking for their size afterwards would take 20 GB.
        "huge_lossless.dcm": (patched(lossless, sof, ">HH", 65000, 65000), f"65000x65000.*promise {rows}x{columns}"),
        "huge_j2k.dcm": (patched(j2k, siz, ">II", 60000, 60000), "60000x60000 samples"),
    }
    copy, out = shutil.copytree(src, tmp_path / "src"), tmp_path / "out"
    folder = next((copy / "train_images").iterdir())
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    (folder / "lost.dcm").symlink_to("nowhere")
    (folder / "folder.dcm").mkdir()
    summary = preprocess(copy, out, **SMALL)
    rows = {Path(r["path"]).name: r for r in manifest(out)}
    good = {f.name for f in (src / "train_images").rglob("*.dcm")}
    assert rows.keys() == good | bad.keys() | {"lost.dcm"}
    assert {name for name, r in rows.items() if r["status"] == "ok"} == good
    for name, (_, reason) in bad.items():
        assert rows[name]["status"] == ("excluded" if name in ("rgb.dcm", "frames.dcm") else "failed")
        assert re.search(reason, rows[name]["reason"]), (name, rows[name]["reason"])
    assert "dangling link" in rows["lost.dcm"]["reason"]
    assert summary.counts == {"ok": len(good), "excluded": 2, "failed": len(bad) - 1, "unprocessed": 0}
    assert summary.exit_status == 1 and "manifest.csv" in str(summary)


def test_headers_changed_at_random_stop_nothing_and_are_never_silently_wrong(src, tmp_path):
    rng, good, folder = random.Random(0), sorted(src.rglob("*.dcm")), tmp_path / "src"
    folder.mkdir()
    for i in range(160):
        data = bytearray(rng.choice(good).read_bytes())
        for _ in range(rng.choice([1, 1, 2, 5]) if i % 4 else 0):
            at = rng.randrange(132, data.rindex(b"\xe0\x7f\x10\x00") + 12)
            value = rng.choice([b"\0\0", b"\xff\xff", b"\0\x80", b"SQ", b"\r\n", rng.randbytes(1), rng.randbytes(4)])
            data[at:at + len(value)] = value
        (folder / f"{i:03d}{'' if i % 4 else '_good'}.dcm").write_bytes(data)
    preprocess(folder, tmp_path / "out", **SMALL | {"shard_size": 64})
    rows = manifest(tmp_path / "out")
    assert len(rows) == 160
    for r in rows:
        if "good" in r["path"] or r["status"] == "ok":
            assert r["status"] == "ok", r
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ds = pydicom.dcmread(folder / r["path"])
                try: expected = ds.pixel_array
                except Exception:  # noqa: BLE001 pydicom raises many kinds; then there is nothing to compare with
                    continue
            np.testing.assert_array_equal(read(folder / r["path"]).pixels, expected)
        else:
            assert r["status"] == "failed" and r["reason"]


# ---- crashes, hangs and kills of workers


def test_what_becomes_of_a_file_that_takes_its_process_along(src, start, tmp_path):
    good = sorted(src.rglob("*.dcm"))
    words = ["SEGV", "ABRT", "exit", "once", "KILL", "TERM", "hang"]
    folder, out = tmp_path / "src", tmp_path / "out"
    folder.mkdir()
    for i, word in enumerate(words):
        shutil.copy(good[i], folder / f"{i:02d}_a_good.dcm")
        shutil.copy(good[-i], folder / f"{i:02d}_{word}.dcm")
    options = {"timeout": 2, "shard_size": 2}
    status, said = finish(start(folder, out, {"SABOTAGE": " ".join(words)}, **options))
    rows = {Path(r["path"]).stem[3:]: (r["status"], r["reason"]) for r in manifest(out)}
    killed = "unprocessed", "its process was killed, perhaps for lack of memory"
    assert rows == {
        "a_good": ("ok", ""), "once": ("ok", ""),
        "SEGV": ("failed", "the decoder crashed (SIGSEGV): the file is damaged"),
        "ABRT": ("failed", "the decoder crashed (SIGABRT): the file is damaged"),
        "exit": ("failed", "the decoder crashed (exit status 3): the file is damaged"),
        "KILL": killed, "TERM": killed, "hang": ("unprocessed", "took longer than 2 s")}
    assert status == 1 and "8 ok, 0 excluded, 3 failed, 3 unprocessed" in said and "next start" in said
    # The next start tries the unprocessed again, and what really crashes stays what it was.
    status, said = finish(start(folder, out, {"SABOTAGE": "SEGV ABRT exit"}, **options))
    assert status == 1 and "11 ok, 0 excluded, 3 failed, 0 unprocessed" in said
    finish(start(folder, tmp_path / "again", {"SABOTAGE": "SEGV ABRT exit"}, **options))
    assert tree(out) == tree(tmp_path / "again")


@pytest.mark.parametrize("victims, pause", [(workers, .1), (fork_servers, .5)])
def test_a_run_outlives_its_killed_processes(src, start, tmp_path, victims, pause):
    rng, run = random.Random(0), start(src, tmp_path / "out", {"SLOW": ".1"}, size="1024x512", bits=16)
    kills = 0
    while run.poll() is None and kills < 1 / pause:
        time.sleep(rng.uniform(pause, 2 * pause))
        for pid in rng.sample(found := victims(run), min(1, len(found))):
            os.kill(pid, signal.SIGKILL)
            kills += 1
    status, said = finish(run)
    assert kills and status in (0, 1), said
    rows = manifest(tmp_path / "out")
    assert len(rows) == len(inputs(src)) and {r["status"] for r in rows} <= {"ok", "unprocessed"}, said
    assert finish(start(src, tmp_path / "out", size="1024x512", bits=16))[0] == 0
    preprocess(src, tmp_path / "again", **SMALL | {"size": "1024x512", "bits": 16})
    assert tree(tmp_path / "out") == tree(tmp_path / "again")


def inputs(src):
    return [f.relative_to(src).as_posix() for f in sorted((src / "train_images").rglob("*.dcm"))]


def test_a_mistake_in_the_program_stops_the_run_and_names_the_file(src, start, undisturbed, tmp_path):
    name = inputs(src)[6]
    status, said = finish(start(src, tmp_path / "out", {"SABOTAGE": "mistake " + name}))
    assert status == 0  # a word that the script does not know does nothing
    folder = shutil.copytree(src, tmp_path / "src")
    mistake = folder / "train_images" / "mistake.dcm"
    shutil.copy(src / name, mistake)
    status, said = finish(start(folder, tmp_path / "out", {"SABOTAGE": "mistake"}))
    assert status == 1 and "RuntimeError: train_images/mistake.dcm: a mistake in the program" in said
    assert "TypeError: not foreseen" in said
    assert len(manifest(tmp_path / "out")) == len(inputs(src))


def test_a_script_without_a_main_guard_is_told_so(src, tmp_path):
    (tmp_path / "script.py").write_text("from pathlib import Path\nfrom mammo_kit.preprocess import preprocess\n"
                                        f"preprocess(Path({str(src)!r}), Path({str(tmp_path / 'out')!r}))\n")
    run = subprocess.Popen([sys.executable, tmp_path / "script.py"], text=True, start_new_session=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    status, said = finish(run, 30)
    assert status == 1 and 'needs `if __name__ == "__main__":`' in said


# ---- kills of the whole run


def test_killed_at_any_moment_and_started_again_it_makes_the_same_files(src, start, undisturbed, tmp_path):
    rng, out = random.Random(time.time_ns()), tmp_path / "out"
    moments = [rng.uniform(0, 2.5) for _ in range(5)]
    for moment in moments:
        run = start(src, out, {"SLOW": ".1"})
        time.sleep(moment)
        run.kill()
        run.wait()
        assert not survivors(run), moments
    status, said = finish(start(src, out))
    assert status == 0 and tree(out) == undisturbed, (moments, said)


def test_killed_during_a_hang_nothing_survives(src, start, tmp_path):
    run = start(src, tmp_path / "out", {"SLOW": "1000"})
    while len(workers(run)) < 2: time.sleep(.05)
    time.sleep(.5)
    run.kill()
    run.wait()
    assert not survivors(run)


def test_ctrl_c_ends_promptly_with_a_manifest_of_what_is_done(src, start, undisturbed, tmp_path):
    out = tmp_path / "out"
    run = start(src, out, {"SLOW": ".2"})
    wait_for(out / "shards/00000.csv", run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    began = time.monotonic()
    status, said = finish(run)
    assert time.monotonic() - began < 5 and status != 0 and "KeyboardInterrupt" in said
    assert [r["status"] for r in manifest(out)] == ["ok"] * 4
    assert not [name for name in tree(out) if ".tmp" in name]
    assert finish(start(src, out))[0] == 0
    assert tree(out) == undisturbed


# ---- the same bytes by other ways


def test_two_workers_make_what_one_makes(src, undisturbed, tmp_path):
    preprocess(src, tmp_path, **SMALL)
    assert tree(tmp_path) == undisturbed


def test_parts_copied_together_are_the_whole(src, undisturbed, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    first = preprocess(src, a, part="1/2", **SMALL)
    second = preprocess(src, b, part="2/2", **SMALL)
    both = first.counts["ok"] + second.counts["ok"]
    assert first.counts["ok"] and second.counts["ok"] and both == len(inputs(src))
    for f in (b / "shards").iterdir():
        assert not (a / "shards" / f.name).exists()
        shutil.copy2(f, a / "shards")
    before = {f: f.stat().st_mtime_ns for f in (a / "shards").iterdir()}
    preprocess(src, a, **SMALL)
    assert tree(a) == undisturbed
    assert before == {f: f.stat().st_mtime_ns for f in (a / "shards").iterdir()}
    with pytest.raises(ValueError, match="K goes from 1 to N"):
        preprocess(src, a, part="3/2", **SMALL)


# ---- parts on several disks, joined


@pytest.fixture(scope="module")
def parts(src, tmp_path_factory):
    "Three parts of all images, read-only as Kaggle's inputs are; and those exclusions that they were made with."
    made = [tmp_path_factory.mktemp("parts") / f"part{k}" for k in (1, 2, 3)]
    for k, part in enumerate(made, 1): preprocess(src, part, part=f"{k}/3", **SMALL)
    return made


def test_parts_are_joined_without_a_copy_as_the_whole_would_be(src, undisturbed, parts, tmp_path):
    before = [tree(part) for part in parts]
    summary = join([parts[2], parts[0], parts[1]], out := tmp_path / "out")
    assert tree(out) == undisturbed and summary.counts["ok"] == len(inputs(src))
    assert [tree(part) for part in parts] == before
    links = list((out / "shards").iterdir())
    assert len(links) == 2 * len(inputs(src)) // 4 + 2 and all(f.is_symlink() for f in links)
    pd.testing.assert_frame_equal(images(out), images_of_whole := images(write(undisturbed, tmp_path / "whole")))
    for row in (images_of_whole.iloc[0], images_of_whole.iloc[-1]):
        np.testing.assert_array_equal(read_image(out, row), read_image(tmp_path / "whole", row))
    join(parts, out)  # again
    assert tree(out) == undisturbed
    assert preprocess(src, out, **SMALL).exit_status == 0 and tree(out) == undisturbed, "nothing is left to do"
    assert load_settings(out) == Settings(128, 64)


def write(files, folder):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_part_that_kaggle_has_unpacked_is_joined_too(undisturbed, parts, tmp_path):
    copies = [shutil.copytree(part, tmp_path / part.name) for part in parts]
    shard = next((copies[1] / "shards").glob("*.tar"))
    with tarfile.open(shard) as tar: tar.extractall(shard.with_suffix(""), filter="data")
    shard.unlink()
    join(copies, out := tmp_path / "out")
    assert (out / "manifest.csv").read_bytes() == undisturbed["manifest.csv"]
    for _, row in images(out).iterrows(): read_image(out, row)


def test_what_was_decided_for_all_parts_holds_for_the_whole(src, undisturbed, tmp_path):
    "Exclusions and decisions; an image that timed out is told as such, and stops nothing."
    write(undisturbed, tmp_path / "before")
    path, rule = next((r["path"], r["flags"].split()[0]) for r in manifest(tmp_path / "before") if r["flags"])
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"path,rule,decision\n{path},{rule},overrule\n")
    options = SMALL | {"exclude": (rule,), "decisions": decisions}
    made = [tmp_path / f"part{k}" for k in (1, 2)]
    for k, part in enumerate(made, 1): preprocess(src, part, part=f"{k}/2", **options)
    preprocess(src, tmp_path / "whole", **options)
    join(made, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    rows = next((made[0] / "shards").glob("*.csv"))
    rows.write_text(rows.read_text().replace(",ok,", ",unprocessed,", 1))
    assert join(made, tmp_path / "out").exit_status == 1


@pytest.mark.parametrize("harm, words", [
    (lambda p, new: p.pop(1), r"part 2/3 is missing"),
    (lambda p, new: p.append(p[0]), "part1 is given twice"),
    (lambda p, new: p.append(shutil.copytree(p[0], new)), "shard 00000 is both in .*part1 and in .*new"),
    (lambda p, new: p.insert(0, p[0].parent), "settings.json is missing: expected a part made by"),
    (lambda p, new: p.clear(), "no parts to join"),
    (lambda p, new: next((p[1] / "shards").glob("*.csv")).unlink(), r"^\S+part2: 1 of all \d+ shards are not there"),
    (lambda p, new: cut(min((p[1] / "shards").glob("*.tar"))), r"^\S+part2: 1 of all \d+ shards are not there"),
    (lambda p, new: (p[1] / "train.csv").unlink(), "part1 and .*part2 have not the same labels"),
    (lambda p, new: (p[2] / "policy.json").write_text('{"exclude": []}'), "part3 have not the same exclusions"),
    (lambda p, new: (p[2] / "plan.csv").write_text("part,path\n0,a\n"), "part3 have not the same inputs"),
    (lambda p, new: (p[2] / "settings.json").write_text((p[2] / "settings.json").read_text().replace("128", "256")),
     r"settings: their settings.json differ \(height 128 there, 256 now"),
    (lambda p, new: p[0].joinpath("parts.json").unlink(), "part 1/3 is missing")])
def test_parts_that_do_not_belong_together_are_refused_in_words(parts, tmp_path, harm, words):
    copies = [shutil.copytree(part, tmp_path / part.name) for part in parts]
    if "part 1/3" in words: shutil.rmtree(copies[0] / "shards")
    harm(copies, tmp_path / "new")
    with pytest.raises(ValueError, match=words): join(copies, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_joining_into_a_folder_of_other_images_or_into_a_part(src, parts, tmp_path):
    preprocess(src, tmp_path / "out", **SMALL)
    with pytest.raises(ValueError, match="is there already, of other images: choose another folder"):
        join(parts, tmp_path / "out")
    with pytest.raises(ValueError, match="is one of the parts"): join(parts, parts[0])


def cut(file):
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


@pytest.mark.parametrize("harm", [Path.unlink, cut])
@pytest.mark.parametrize("name", ["shards/00001.tar", "shards/00001.csv", "manifest.csv"])
def test_what_is_lost_or_cut_is_made_again(src, undisturbed, tmp_path, name, harm):
    for file, data in undisturbed.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(data)
    harm(tmp_path / name)
    others = {f: f.stat().st_mtime_ns for f in (tmp_path / "shards").glob("*.tar") if f.stem != "00001"}
    assert preprocess(src, tmp_path, **SMALL | {"workers": 1}).exit_status == 0
    assert tree(tmp_path) == undisturbed
    assert others == {f: f.stat().st_mtime_ns for f in others}


def test_new_inputs_become_a_new_part(src, tmp_path):
    copy, out = shutil.copytree(src, tmp_path / "src"), tmp_path / "out"
    preprocess(copy, out, **SMALL)
    before, rows = tree(out), manifest(out)
    new = copy / "train_images/0_before_all_others/1.dcm"
    new.parent.mkdir()
    shutil.copy(of_syntax(src, ".90"), new)
    summary = preprocess(copy, out, **SMALL)
    after = tree(out)
    assert summary.counts["ok"] == len(rows) + 1
    assert all(after[name] == data for name, data in before.items() if name.startswith("shards/"))
    assert len(after) == len(before) + 2
    assert [r["path"] for r in manifest(out)] == [r["path"] for r in rows] + ["train_images/0_before_all_others/1.dcm"]


def test_shards_of_another_plan_are_not_mistaken_for_these(src, undisturbed, tmp_path):
    less, out = shutil.copytree(src, tmp_path / "src"), tmp_path / "out"
    (less / inputs(src)[0]).unlink()
    preprocess(less, tmp_path / "less", **SMALL)
    shutil.copytree(tmp_path / "less/shards", out / "shards")
    preprocess(src, out, **SMALL)
    assert tree(out) == undisturbed


# ---- one folder, one run, one kind of image


def test_a_second_run_in_the_same_folder_is_refused(src, start, tmp_path):
    out = tmp_path / "out"
    run = start(src, out, {"SLOW": ".2"})
    wait_for(out / "plan.csv", run)
    with pytest.raises(Stopped, match="another run is writing here"):
        preprocess(src, out, **SMALL)
    assert finish(run)[0] == 0


def test_other_settings_are_refused_with_the_difference(src, tmp_path):
    preprocess(src, tmp_path, part="1/2", **SMALL)
    with pytest.raises(ValueError, match="bits 8 there, 16 now"):
        preprocess(src, tmp_path, bits=16, **SMALL)
    with pytest.raises(ValueError, match="shard_size 4 there, 8 now"):
        preprocess(src, tmp_path, **SMALL | {"shard_size": 8})
    assert load_settings(tmp_path) == Settings(128, 64)


@pytest.mark.parametrize("options, message", [
    ({"workers": 0}, "workers 0"), ({"shard_size": 0}, "shard_size 0"), ({"timeout": 0}, "timeout 0"),
    ({"part": "half"}, "expected K/N"), ({"size": "128"}, "HEIGHTxWIDTH"), ({"bits": 12}, "expected 8 or 16")])
def test_values_that_make_no_sense_are_refused_before_anything_is_written(src, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        preprocess(src, tmp_path / "out", **SMALL | options)
    assert not (tmp_path / "out").exists()


def test_the_result_may_not_lie_among_its_inputs(src, tmp_path):
    shutil.copy(of_syntax(src, ".70"), tmp_path / "1.dcm")
    for out in (tmp_path / "out", tmp_path):
        with pytest.raises(ValueError, match="lies in the folder of images"):
            preprocess(tmp_path, out, **SMALL)


# ---- folders of all kinds


def test_a_plain_folder_with_all_kinds_of_names(src, tmp_path):
    folder, out = tmp_path / "src", tmp_path / "out"
    good, evil = of_syntax(src, ".70"), "../../etc/passwd"
    names = ["flat.dcm", "no_suffix", "a/1.dcm", "b/1.dcm", "a b/with  spaces.dcm", "dots.in/1.2.840.10008.1.dcm",
             "é/брест.dcm", f"long/{'x' * 120}/{'y' * 120}.dcm",
             'comma,quote"/1.dcm', "line\nbreak.dcm", "Icon\r", "1", "1.dcm",
             "UPPER.DCM"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good, folder / name)
    (folder / "a/evil.dcm").write_bytes(changed(good, PatientID=evil))
    (folder / "odd.dcm").write_bytes(changed(good, PatientID="a\rb"))
    with open(os.fsencode(folder) + b"/latin\xe9.dcm", "wb") as f:
        f.write(good.read_bytes())
    (folder / "table.csv").write_text("not an image")
    (folder / ".hidden").write_text("not an image")
    summary = preprocess(folder, out, **SMALL)
    rows = {r["path"]: r for r in manifest(out)}
    expected = {*names, "a/evil.dcm", "odd.dcm"}
    assert rows.keys() == expected | {"latin\\udce9.dcm"}
    assert summary.counts == {"ok": len(expected), "excluded": 0, "failed": 1, "unprocessed": 0}
    assert "not UTF-8" in rows["latin\\udce9.dcm"]["reason"]
    assert rows["a/evil.dcm"]["patient_id"] == evil and rows["odd.dcm"]["patient_id"] == "a?b"
    same = {stored(out, rows[name]) for name in expected}
    assert len(same) == 1 and len({rows[name]["member"] for name in expected}) == len(expected)
    for tar in (out / "shards").glob("*.tar"):  # unpacked they stay below their folder
        with tarfile.open(tar) as t: t.extractall(tmp_path / "unpacked", filter="data")
    before = tree(out)
    preprocess(folder, out, **SMALL)
    assert tree(out) == before


def test_a_folder_without_images_and_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no files in it"):
        preprocess(tmp_path, tmp_path.with_name("out"), **SMALL)
    (tmp_path / "x.dcm").touch()
    with pytest.raises(ValueError, match="found a file"):
        preprocess(tmp_path / "x.dcm", tmp_path.with_name("out"), **SMALL)


# ---- on a cluster

CRASH = """
import os, signal, sys
if "-m" not in sys.orig_argv[:2] or "scheduler" not in sys.orig_argv:
    from mammo_kit import preprocess as p
    real = p.open_bytes

    def open_bytes(data, name):
        if "crash" in name: os.kill(os.getpid(), signal.SIGSEGV)
        return real(data, name)

    p.open_bytes = open_bytes
"""


@needs_dask
def test_a_cluster_makes_what_one_machine_makes(src, start, tmp_path):
    "Though one of its workers is lost, and a decoder crashes on another."
    copy = shutil.copytree(src, tmp_path / "src")
    shutil.copy(copy / inputs(src)[0], copy / "train_images" / "crash.dcm")
    options = {"shard_size": 2, "size": "256x128"}
    finish(start(copy, tmp_path / "here", {"SABOTAGE": "crash"}, **options))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CRASH)
    with dask(tmp_path) as cluster:
        workers = [cluster.worker(PYTHONPATH=str(tmp_path / "site")) for _ in range(2)]
        summary, out = [], tmp_path / "there"
        run = threading.Thread(target=lambda: summary.append(
            preprocess(copy, out, dask=cluster.address, **SMALL | options)))
        run.start()
        wait_for(out / "shards/00001.csv", workers[1])
        workers[0].kill()
        run.join(60)
    expected = {"ok": len(inputs(src)), "excluded": 0, "failed": 1, "unprocessed": 0}
    assert summary and summary[0].counts == expected
    (row,) = (r for r in manifest(out) if r["status"] == "failed")
    assert row["path"].endswith("crash.dcm") and "the decoder crashed (SIGSEGV)" in row["reason"]
    assert tree(out) == tree(tmp_path / "here")


@needs_dask
def test_a_cluster_that_is_not_there(src, tmp_path):
    with pytest.raises(ValueError, match="expected the scheduler's address"):
        preprocess(src, tmp_path / "out", dask="localhost", **SMALL)


# ---- from a zip file


def zipped(src, file, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", method) as z:
        for f in sorted(src.rglob("*")):
            z.write(f, f.relative_to(src))
    return file


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_makes_what_its_folder_makes(src, undisturbed, tmp_path, method):
    file = zipped(src, tmp_path / "competition.zip", method)
    assert preprocess(file, tmp_path / "out", **SMALL).exit_status == 0
    assert tree(tmp_path / "out") == undisturbed
    preprocess(file, tmp_path / "test", split="test", **SMALL)
    preprocess(src, tmp_path / "test_of_folder", split="test", **SMALL)
    assert tree(tmp_path / "test") == tree(tmp_path / "test_of_folder")


def test_a_damaged_entry_of_a_zip_file_is_one_row(src, undisturbed, tmp_path):
    file = zipped(src, tmp_path / "competition.zip")
    victims = inputs(src)[2:6]
    with zipfile.ZipFile(file) as z:
        entries = [z.getinfo(v) for v in victims]
    data = bytearray(file.read_bytes())
    data[entries[0].header_offset] = 0                                  # its local header
    data[entries[1].header_offset + 30 + len(victims[1]) + 500] ^= 255  # its compressed bytes
    data[entries[2].header_offset + 6] |= 1                             # called encrypted
    at = data.index(victims[3].encode(), entries[-1].header_offset + 100)  # in the directory
    assert data[at - 46:at - 42] == b"PK\1\2"
    data[at - 46 + 10] = 12                                             # called bzip2
    file.write_bytes(data)
    assert preprocess(file, tmp_path / "out", **SMALL).exit_status == 1
    rows = {r["path"]: (r["status"], r["reason"]) for r in manifest(tmp_path / "out")}
    for victim, reason in zip(victims, ["damaged there", "damaged there", "encrypted", "method 12"]):
        assert rows[victim][0] == "failed" and reason in rows[victim][1], rows[victim]
    assert sum(status == "ok" for status, _ in rows.values()) == len(rows) - 4
    file.write_bytes(data[:-30])
    with pytest.raises(ValueError, match="competition.zip: expected .* a zip file that was cut off"):
        preprocess(file, tmp_path / "cut", **SMALL)


def test_a_zip_file_of_plain_images_and_what_a_mac_adds(src, tmp_path):
    some = sorted((src / "train_images").rglob("*.dcm"))[:3]
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as z:
        for i, f in enumerate(some): z.write(f, f"clinic/{i}.dcm")
        for name in ("__MACOSX/clinic/._0.dcm", "clinic/.DS_Store", "notes.csv"): z.writestr(name, "not an image")
    assert preprocess(tmp_path / "scans.zip", tmp_path / "out", **SMALL).exit_status == 0
    assert [r["path"] for r in manifest(tmp_path / "out")] == ["clinic/0.dcm", "clinic/1.dcm", "clinic/2.dcm"]


# ---- many images


def test_the_memory_of_a_run_does_not_grow_with_its_images(src, tmp_path):
    "A thousand rows take the parent no more than what their paths take."
    folder = tmp_path / "src"
    folder.mkdir()
    some = of_syntax(src, ".70").read_bytes()[:3000]  # refused at once
    for i in range(2000): (folder / f"{i:05d}.dcm").write_bytes(some)
    script = tmp_path / "script.py"
    script.write_text(f"""
import resource
from pathlib import Path
from mammo_kit.preprocess import preprocess
if __name__ == "__main__":
    peak = []
    for n in (200, 2000):
        src = Path({str(tmp_path)!r}) / str(n)
        src.mkdir()
        for f in sorted(Path({str(folder)!r}).iterdir())[:n]: (src / f.name).symlink_to(f)
        preprocess(src, Path({str(tmp_path)!r}) / f"out{{n}}", workers=1, progress=False)
        peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(*peak)
""")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    assert after - before < 4000  # kB, for 1,800 images more


# ---- pictures


def test_formats_show_the_same_picture(src, undisturbed, tmp_path):
    options = {"png": {}, "deep": {"bits": 16}, "jpeg": {"format": "jpeg"}, "stretch": {"fit": "stretch"}}
    outs = {kind: tmp_path / kind for kind in options}
    for kind, option in options.items():
        preprocess(src, outs[kind], **SMALL | option)
    rows = {kind: manifest(out) for kind, out in outs.items()}
    for i, row in enumerate(rows["png"]):
        png, deep, jpeg, stretch = (picture(outs[kind], rows[kind][i]) for kind in options)
        assert png.shape == deep.shape == jpeg.shape == stretch.shape == parse_size(SMALL["size"])
        assert deep.dtype == np.uint16 and {png.dtype, jpeg.dtype, stretch.dtype} == {np.dtype(np.uint8)}
        assert abs(deep / 257 - png).mean() < .5 and abs(jpeg.astype(float) - png).mean() < 2
        assert rows["jpeg"][i]["member"].endswith(".jpeg") and row["member"].endswith(".png")
        # Undo the padding, and it is the stretched picture.
        box = {k: int(row[f"box_{k}"]) for k in ("top", "left", "bottom", "right")}
        height, width = box["bottom"] - box["top"], box["right"] - box["left"]
        scale = min(128 / height, 64 / width)
        h, w = round(height * scale), round(width * scale)
        content = png[(128 - h) // 2:(128 - h) // 2 + h, :w]
        assert np.corrcoef(cv2.resize(content, (64, 128)).ravel(), stretch.ravel())[0, 1] > .98


def test_what_trains_is_what_predicts(src, tmp_path):
    copy = shutil.copytree(src, tmp_path / "src")
    shutil.rmtree(copy / "test_images")
    shutil.copytree(copy / "train_images", copy / "test_images")
    for split in ("train", "test"):
        preprocess(copy, tmp_path / split, split=split, **SMALL)
    train, test = manifest(tmp_path / "train"), manifest(tmp_path / "test")
    assert len(train) == len(test) > 14
    for a, b in zip(train, test):
        assert a["path"].replace("train_images", "test_images") == b["path"]
        assert stored(tmp_path / "train", a) == stored(tmp_path / "test", b)
    made = process(copy, open_source(copy).competition, load_settings(tmp_path / "train"), Input(test[0]["path"]))
    assert made.image == stored(tmp_path / "train", train[0])


# ---- the disk


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 200 kB and a function to make it larger."
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() or not mount or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=200k", "mammo-kit-test", disk], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted as root")
    yield disk, lambda size: subprocess.run([mount, "-o", f"remount,size={size}", disk], check=True)
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_the_run_and_room_continues_it(src, small_disk, tmp_path):
    disk, enlarge = small_disk
    options = SMALL | {"size": "512x256"}
    preprocess(src, tmp_path / "reference", **options)
    reference = tree(tmp_path / "reference")
    out = disk / "out"
    with pytest.raises(Stopped, match="the disk is full. Make room and start again"):
        preprocess(src, out, **options)
    assert all(reference[name] == data for name, data in tree(out).items() if name not in TABLES)
    assert not [name for name in tree(out) if name.startswith("shards/")]
    enlarge(f"{sum(map(len, reference.values())) // 2000}k")
    with pytest.raises(Stopped, match="are still to be written") as stopped:  # foreseen, from the first shard
        preprocess(src, out, **options)
    n = int(re.search(r"--part 1/(\d+) to \1/\1, .* --parts \1,", str(stopped.value))[1])
    assert 2 <= n <= 5, "half of it had room"
    assert "shards/00000.csv" in tree(out)
    assert all(reference[name] == data for name, data in tree(out).items() if name not in TABLES)
    enlarge("50m")
    assert preprocess(src, out, **options).exit_status == 0
    assert tree(out) == reference


def test_forked_processes_do_not_wait_for_threads_of_their_parent():
    code = ("import cv2, numpy as np\n"
            "cv2.setNumThreads(4)\n"
            "for _ in range(20): cv2.GaussianBlur(np.zeros((3000, 3000), np.float32), (0, 0), 3)\n"
            "from mammo_kit.pool import Pool, each\n"
            "print([answer for _, answer in each(abs, [-1, 2], Pool(1, 1, 'fork'), 10)], cv2.getNumThreads())\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1, 2] 4\n", done.stderr
