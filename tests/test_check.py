"`mammo-kit check`: all rules on all files, whatever the files do; one table, or none."
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pydicom
import pytest
from test_preprocess import finish, survivors

from mammo_kit import phantom
from mammo_kit.check import check
from mammo_kit.cli import main
from mammo_kit.faults import HEADER_FAULTS, draw_artifact
from mammo_kit.policy import ALARM_COLUMNS, KNOWN, RULES

COMMAND = Path(sys.executable).with_name("mammo-kit")
QUIET = {"workers": 1, "progress": False}
FIELD = {"shape": (499, 384), "pixel_spacing_mm": .47}


def image(file, image_id=2, fault=None, artifact=None):
    "A mammogram, healthy unless asked otherwise, of a machine that writes a Pixel Padding Value and a window."
    file.parent.mkdir(parents=True, exist_ok=True)
    breast = phantom.mammogram(1, "L", "CC", "B", **FIELD)
    if artifact: breast = draw_artifact(breast, artifact, .5, 4)[0]
    phantom.write_dicom(file, breast, phantom.MACHINES[49], 1, image_id, damage=HEADER_FAULTS.get(fault))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, what in (("healthy", {}), ("colour", {"fault": "colour"}), ("frames", {"fault": "multi_frame"}),
                       ("eight", {"fault": "eight_bit_pixels"}), ("blank", {"artifact": "blank"})):
        image(folder / f"{name}.dcm", **what)
    return folder


@pytest.fixture
def src(made, tmp_path):
    "A folder of a healthy image, four with a fault, and six that cannot be read."
    src = shutil.copytree(made, tmp_path / "src" / "clinic").parent
    whole = (made / "healthy.dcm").read_bytes()
    (src / "clinic/empty.dcm").touch()
    (src / "clinic/text.dcm").write_text("patient_id,cancer\n" * 40)
    (src / "clinic/cut.dcm").write_bytes(whole[:-1000])
    (src / "clinic/header.dcm").write_bytes(whole[:700])
    ds = pydicom.dcmread(made / "healthy.dcm")
    ds.Rows = 9999
    ds.save_as(src / "clinic/rows.dcm")
    (src / "clinic/lost.dcm").symlink_to("nowhere")
    return src


UNREADABLE = {"empty", "text", "cut", "header", "rows", "lost"}
RULE_OF = {"colour": "colour", "frames": "multi_frame", "eight": "eight_bit_pixels", "blank": "blank"}


def table(file):
    with open(file, encoding="utf-8", newline="") as f:
        reader = csv.DictReader(f)
        assert reader.fieldnames == list(ALARM_COLUMNS)
        return list(reader)


def by_name(rows):
    found = {}
    for r in rows: found.setdefault(Path(r["path"]).stem, {})[r["rule"]] = r
    return found


def command(*args, **options):
    return subprocess.run([COMMAND, "check", *map(str, args)], capture_output=True, text=True, timeout=60, **options)


def test_each_file_has_the_rows_it_deserves(src, tmp_path):
    ended = command(src, "--csv", tmp_path / "alarms.csv", "--workers", "1", "--no-progress")
    assert (ended.returncode, ended.stderr) == (1, "")  # some cannot be read
    found = by_name(rows := table(tmp_path / "alarms.csv"))
    assert {name for name, rules in found.items() if "unreadable" in rules} == UNREADABLE
    assert found.keys() == UNREADABLE | RULE_OF.keys()  # nothing about the healthy one
    for name, rule in RULE_OF.items():
        r = found[name][rule]
        assert r["severity"] == RULES[rule].severity and r["unit"] == RULES[rule].unit and r["decision"] == ""
        assert float(r["threshold"]) == RULES[rule].threshold and RULES[rule].fires(float(r["score"]))
        assert re.search(r"\d", r["reason"]) and r["reason"].endswith((".", ")"))
    for name in UNREADABLE:
        (r,) = found[name].values()
        assert r["severity"] == "exclude" and len(r["reason"]) > 9 and str(src) not in r["reason"], r
    assert "cut off" in found["cut"]["unreadable"]["reason"] and "9999" in found["rows"]["unreadable"]["reason"]
    assert {k: v["multi_frame"]["score"] for k, v in found.items() if k == "frames"} == {"frames": "3"}
    for rule in (*RULE_OF.values(), "unreadable"):
        n = sum(r["rule"] == rule for r in rows)
        assert re.search(rf"^{rule} +(exclude|repair|note) +{n}   \S", ended.stdout, re.M), rule
    assert ended.stdout.endswith("10 of 11 images have something to tell of\n")


def test_a_zip_file_and_two_workers_say_what_the_folder_says(src, tmp_path):
    (src / "clinic/lost.dcm").unlink()
    one = check(src, tmp_path / "one.csv", **QUIET)
    two = check(src, tmp_path / "two.csv", workers=2, progress=False)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for f in sorted(src.rglob("*.dcm")): z.write(f, f.relative_to(src))
    zipped = check(tmp_path / "scans.zip", tmp_path / "zip.csv", **QUIET)
    assert str(one) == str(two) == str(zipped) and one.exit_status == zipped.exit_status == 1
    tables = {(tmp_path / f"{name}.csv").read_bytes() for name in ("one", "two", "zip")}
    assert len(tables) == 1
    assert check(src, **QUIET).rows == one.rows  # and without a table


def test_nothing_to_tell_is_0(made, tmp_path):
    image(tmp_path / "src/a.dcm")
    ended = command(tmp_path / "src", "--csv", tmp_path / "a.csv", "--workers", "1", "--no-progress")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("0 of 1 images have something to tell of\n")
    assert table(tmp_path / "a.csv") == []


def test_the_split_of_a_competition(made, tmp_path):
    for split, name in (("train", "blank"), ("test", "healthy")):
        (folder := tmp_path / "src" / f"{split}_images/1").mkdir(parents=True)
        shutil.copy(made / f"{name}.dcm", folder / "2.dcm")
    assert [r["rule"] for r in check(tmp_path / "src", **QUIET).rows] == ["blank"]
    assert check(tmp_path / "src", split="test", **QUIET).rows == []


def test_what_a_damaged_header_holds_does_not_reach_terminal_or_table(made, tmp_path):
    "Escape sequences, zeros, line ends, letters beyond ASCII."
    data = (made / "healthy.dcm").read_bytes()
    modality = data.index(b"\x08\x00\x60\x00CS\x02\x00MG") + 8
    photometric = data.index(b"MONOCHROME")
    (tmp_path / "src").mkdir()
    for i, (at, value) in enumerate([(modality, b"\x1b["), (modality, b"\xe9G"), (photometric, b"M\0NO\nHROME9")]):
        (tmp_path / f"src/{i}.dcm").write_bytes(data[:at] + value + data[at + len(value):])
    found = check(tmp_path / "src", tmp_path / "a.csv", **QUIET)
    assert {r["rule"] for r in found.rows} == {"not_a_mammogram", "colour"}
    assert len({r["path"] for r in found.rows}) == 3
    said = (tmp_path / "a.csv").read_bytes().replace(b"\n", b"") + str(found).replace("\n", "").encode()
    assert said.decode().isprintable() and len((tmp_path / "a.csv").read_text().splitlines()) == len(found.rows) + 1


# ---- processes

SCRIPT = '''
import os, signal, sys, time
from pathlib import Path
from mammo_kit import check as c

real = c.open_bytes

def open_bytes(data, name):
    if "crash" in name: os.kill(os.getpid(), signal.SIGSEGV)
    if "kill" in name: os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in name: time.sleep(1000)
    if "memory" in name: raise MemoryError
    if "mistake" in name: raise TypeError("not foreseen")
    return real(data, name)

c.open_bytes = open_bytes
if __name__ == "__main__":
    found = c.check(Path(sys.argv[1]), Path(sys.argv[2]), workers=1, timeout=1, progress=False)
    print(found)
    sys.exit(found.exit_status)
'''


def start(tmp_path, src):
    (tmp_path / "script.py").write_text(SCRIPT)
    return subprocess.Popen([sys.executable, tmp_path / "script.py", src, tmp_path / "a.csv"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def test_a_file_that_takes_its_process_along_is_one_row(made, tmp_path):
    (tmp_path / "src").mkdir()
    for name in ("a_blank", "b_crash", "c_blank", "d_hang", "e_kill", "f_memory", "g_blank"):
        shutil.copy(made / "blank.dcm", tmp_path / f"src/{name}.dcm")
    status, said = finish(start(tmp_path, tmp_path / "src"))
    assert status == 1 and "unreadable" in said and "7 of 7 images" in said
    rows = [(r["path"][2:-4], r["rule"], r["reason"]) for r in table(tmp_path / "a.csv")]
    assert [(name, rule) for name, rule, _ in rows] == [
        (name, "blank" if name == "blank" else "unreadable")
        for name in ("blank", "crash", "blank", "hang", "kill", "memory", "blank")]
    reasons = {name: reason for name, _, reason in rows}
    assert reasons["crash"] == "the decoder crashed (SIGSEGV): the file is damaged"
    assert reasons["hang"] == "took longer than 1 s" and "killed" in reasons["kill"]
    assert reasons["memory"] == "out of memory"


def test_a_mistake_in_the_program_stops_it_and_leaves_no_table(made, tmp_path):
    (tmp_path / "src").mkdir()
    shutil.copy(made / "blank.dcm", tmp_path / "src/mistake.dcm")
    status, said = finish(start(tmp_path, tmp_path / "src"))
    assert status == 1 and "RuntimeError: mistake.dcm: a mistake in the program" in said and "not foreseen" in said
    assert not list(tmp_path.glob("*.csv*"))


def test_ctrl_c_is_130_and_leaves_no_table_and_no_process(made, tmp_path):
    "A table without the alarms of the files that were not reached would say that they have none."
    (tmp_path / "src").mkdir()
    for i in range(3000): (tmp_path / f"src/{i}.dcm").symlink_to(made / "healthy.dcm")
    args = [COMMAND, "check", tmp_path / "src", "--csv", tmp_path / "a.csv", "--workers", "1"]
    with open(tmp_path / "err", "w") as err:
        run = subprocess.Popen(args, stderr=err, start_new_session=True)
    until = time.monotonic() + 30
    while not re.search(r"\b[1-9]\d*/3000", (tmp_path / "err").read_text()) and run.poll() is None:
        assert time.monotonic() < until
        time.sleep(.01)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(10) == 130 and not survivors(run)
    said = (tmp_path / "err").read_text()
    assert said.endswith("mammo-kit: interrupted\n") and "Traceback" not in said
    assert not list(tmp_path.glob("*.csv*")) + list(tmp_path.glob(".*.tmp"))


# ---- wrong use

@pytest.mark.parametrize("place, status", [("nowhere/a.csv", 2), (".", 2), ("file/a.csv", 2), ("/dev/full/a.csv", 2)])
def test_a_table_that_cannot_be_written_is_an_error_before_the_work(place, status, made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mammo_kit.check.each", lambda *_: pytest.fail("it worked first"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["check", str(made), "--csv", place, "--no-progress"]) == status
    err = capsys.readouterr().err
    assert err.startswith("mammo-kit: ") and "Traceback" not in err


def test_a_full_disk_is_3(made, tmp_path, monkeypatch, capsys):
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    assert main(["check", str(made), "--csv", str(tmp_path / "a.csv"), "--no-progress"]) == 3
    assert "the disk is full" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("args, words", [
    (["nowhere"], "nowhere: expected a folder"), (["SRC", "--split", "valid"], "invalid choice"),
    (["SRC", "--workers", "0"], "workers 0: expected at least 1"), (["SRC", "--timeout", "0"], "timeout 0"),
    ([], "SRC")])
def test_wrong_use_is_2_in_words(args, words, made, capsys):
    try: status = main(["check", *(str(made) if a == "SRC" else a for a in args)])
    except SystemExit as e: status = e.code
    said = "".join(capsys.readouterr())
    assert status == 2 and words in said and "Traceback" not in said


# ---- images of the notes


@pytest.mark.parametrize("zipped", [False, True])
def test_images_that_the_notes_name_are_reported(zipped, tmp_path):
    "One shows what people saw in it, another of that number is healthy; in a competition only."
    ids = {rule: image_id for image_id, rule in KNOWN.items()}
    src = tmp_path / "src"
    image(src / f"train_images/7/{ids['blank']}.dcm", ids["blank"], artifact="blank")
    image(src / f"train_images/8/{ids['eight_bit_pixels']}.dcm", ids["eight_bit_pixels"])
    image(src / "train_images/8/2.dcm")
    healthy = f"train_images/8/{ids['eight_bit_pixels']}.dcm"
    if zipped:
        with zipfile.ZipFile(tmp_path / "src.zip", "w") as z:
            for f in sorted(src.rglob("*.dcm")): z.write(f, f.relative_to(src))
    found = check(tmp_path / "src.zip" if zipped else src, **QUIET)
    assert found.known == {f"train_images/7/{ids['blank']}.dcm": "blank", healthy: "eight_bit_pixels"}
    assert str(found).endswith(f"\nknown from the notes: 1 of 2 found; not {healthy} (eight_bit_pixels)")
    assert "known from the notes" not in str(check(src / "train_images/8", **QUIET))
