"What is done about alarms: what is excluded and repaired, that a person overrules both, and that all ways agree."
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from test_cluster import dask, needs_dask
from test_preprocess import manifest, picture, stored, tree

from mammo_kit import phantom
from mammo_kit.check import check
from mammo_kit.cli import main
from mammo_kit.dataset import images
from mammo_kit.dicom import open_bytes, read
from mammo_kit.faults import HEADER_FAULTS, draw_artifact
from mammo_kit.look import Pyramid, look
from mammo_kit.policy import ALARM_COLUMNS, KNOWN, RULES, Policy, alarm_rows, read_decisions, rules_for
from mammo_kit.preprocess import load_settings, preprocess
from mammo_kit.windowing import display

COMMAND = Path(sys.executable).with_name("mammo-kit")
SMALL = {"size": "128x64", "shard_size": 4, "workers": 1, "progress": False}
EXCLUDED = {"blank", "empty_range", "multi_frame", "colour", "not_a_mammogram"}
REPAIRED = {"eight_bit_pixels", "window_outside_range", "photometric_disagrees"}


def damage(file, fault):
    "Give a DICOM file a header fault."
    ds = pydicom.dcmread(file)
    fault(ds)
    ds.save_as(file, enforce_file_format=True)


def spoilt(folder, patients=5):
    "A competition with one image of each header fault, a blank one and healthy ones; the path of each rule's image."
    src = phantom.make_competition(folder, patients, test_patients=1, scale=.15, workers=1, progress=False)
    files = sorted((src / "train_images").rglob("*.dcm"))
    of = dict(zip((*HEADER_FAULTS, "blank"), files))
    for rule, fault in HEADER_FAULTS.items(): damage(of[rule], fault)
    machine = phantom.MACHINES[49]
    breast = phantom.mammogram(1, "L", "CC", "B", shape=(499, 384), pixel_spacing_mm=.47)
    phantom.write_dicom(of["blank"], draw_artifact(breast, "blank", .5, 4)[0], machine, 1, 2)
    return src, {rule: file.relative_to(src).as_posix() for rule, file in of.items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return spoilt(tmp_path_factory.mktemp("spoilt") / "src")


@pytest.fixture(scope="module")
def src(source): return source[0]


@pytest.fixture(scope="module")
def of(source): return source[1]


@pytest.fixture(scope="module")
def done(src, tmp_path_factory):
    "The folder of a run with the default policy; copy it before you change it."
    out = tmp_path_factory.mktemp("done") / "out"
    assert preprocess(src, out, **SMALL).exit_status == 0
    return out


@pytest.fixture
def out(done, tmp_path): return shutil.copytree(done, tmp_path / "out")


@pytest.fixture(scope="module")
def unrepaired(src, tmp_path_factory):
    out = tmp_path_factory.mktemp("unrepaired") / "out"
    preprocess(src, out, repair=("none",), **SMALL)
    return out


def by_path(out): return {r["path"]: r for r in manifest(out)}


def alarms(file):
    with open(file, encoding="utf-8", newline="") as f: return list(csv.DictReader(f))


def shards(out): return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted((out / "shards").iterdir())}


def decide(file, *rows):
    "A file of decisions: (path, rule, decision) each."
    file.write_text("".join(f"{','.join(row)}\n" for row in [("path", "rule", "decision"), *rows]))
    return file


def ok(out): return set(images(out)["path"])


# ---- by default


def test_every_fault_is_told_and_the_default_policy_acts_on_it(done, of):
    rows, told = by_path(done), {(a["path"], a["rule"]): a for a in alarms(done / "alarms.csv")}
    for rule, path in of.items():
        assert rule in rows[path]["flags"].split(), rule
        assert rows[path]["status"] == ("excluded" if rule in EXCLUDED else "ok"), rule
        assert (rows[path]["repairs"] == rule) == (rule in REPAIRED), rule
        a = told[path, rule]
        assert a["severity"] == RULES[rule].severity and a["decision"] == ""
        assert float(a["threshold"]) == RULES[rule].threshold and RULES[rule].fires(float(a["score"]))
        if rule in EXCLUDED: assert f"{rule} {a['score']}: {a['reason']}" in rows[path]["reason"]
    healthy = rows.keys() - set(of.values())
    assert len(healthy) > 2 and {rows[path]["status"] for path in healthy} == {"ok"}
    assert {path for path, _ in told} == {path for path, r in rows.items() if r["flags"]}


def test_training_does_not_see_what_is_excluded(done, of):
    rows = by_path(done)
    assert ok(done) == {path for path, r in rows.items() if r["status"] == "ok"}
    assert ok(done).isdisjoint(of[rule] for rule in EXCLUDED)
    for rule in ("blank", "empty_range", "not_a_mammogram"):  # they are in the shard all the same
        assert picture(done, rows[of[rule]]).shape == (128, 64)
    for rule in ("multi_frame", "colour"):  # of which no picture can be made
        assert rows[of[rule]]["member"] == rows[of[rule]]["length"] == ""


def test_defaults_are_those_of_the_rules():
    assert set(rules_for(["default"], "repair")) == REPAIRED
    severe = {name for name, rule in RULES.items() if rule.severity == "exclude"}
    assert EXCLUDED <= set(rules_for(["default"], "exclude")) == severe
    assert rules_for(["none"], "exclude") == rules_for([], "exclude") == ()
    assert rules_for(["blank", "none", "stripes", "blank"], "exclude") == ("blank", "stripes")
    assert "stripes" in rules_for(["default", "stripes"], "exclude")
    with pytest.raises(ValueError, match="repair blank: expected default, none, or some of eight_bit_pixels"):
        rules_for(["blank"], "repair")  # there is nothing to mend it by
    assert set(KNOWN.values()) <= RULES.keys() and len(KNOWN) == 17


# ---- another policy


def test_another_policy_rewrites_the_tables_only_and_is_remembered(src, out, of):
    before, tables, path = shards(out), tree(out), of["laterality_disagrees"]
    score = next(a["score"] for a in alarms(out / "alarms.csv") if a["rule"] == "laterality_disagrees")
    summary = preprocess(src, out, exclude=("default", "laterality_disagrees"), **SMALL)
    assert summary.exit_status == 0 and shards(out) == before
    row = by_path(out)[path]
    assert row["status"] == "excluded"
    assert re.match(rf"laterality_disagrees {score}: Laterality is [LR], .* %", row["reason"])
    assert path not in ok(out) and len(ok(out)) == summary.counts["ok"]
    others = [(r, was) for r, was in zip(manifest(out), csv.DictReader(tables["manifest.csv"].decode().splitlines()))
              if r["path"] != path]
    assert len(others) > 15 and all(r == was for r, was in others)
    assert {a["severity"] for a in alarms(out / "alarms.csv") if a["rule"] == "laterality_disagrees"} == {"exclude"}
    now = tree(out)
    assert preprocess(src, out, **SMALL).counts == summary.counts and tree(out) == now  # nothing said: as before
    preprocess(src, out, exclude=("default",), **SMALL)
    assert tree(out) == tables and shards(out) == before


def test_without_exclusions_only_what_cannot_be_read_is_missing(src, out, of):
    summary = preprocess(src, out, exclude=("none",), **SMALL)
    assert summary.exit_status == 1 and summary.counts["excluded"] == 0 and summary.counts["failed"] == 2
    rows = by_path(out)
    assert {path for path, r in rows.items() if r["status"] == "failed"} == {of["multi_frame"], of["colour"]}
    assert "RGB" in rows[of["colour"]]["reason"] and of["blank"] in ok(out)


def test_other_repairs_are_other_images_and_need_another_folder(src, out):
    with pytest.raises(ValueError, match="repair .*eight_bit_pixels.* there, .* now.* Choose another folder"):
        preprocess(src, out, repair=("none",), **SMALL)


# ---- repairs


def with_these(file, **attributes):
    "Other attributes of a DICOM file, None without it."
    ds = pydicom.dcmread(file)
    for keyword, value in attributes.items():
        if value is not None: setattr(ds, keyword, value)
        elif keyword in ds: delattr(ds, keyword)
    ds.save_as(file, enforce_file_format=True)


def test_eight_bit_pixels_are_shown_as_they_are_stored(src, of, done, unrepaired, tmp_path):
    "In the overview, in every grey value, and in the training image: that of a file whose header is right."
    path = of["eight_bit_pixels"]
    image = read(src / path)
    header = look(Pyramid(open_bytes((src / path).read_bytes())), REPAIRED).header
    plain = image.pixels if header.photometric_interpretation == "MONOCHROME2" else 255 - image.pixels
    assert image.pixels.dtype == np.uint16 and image.pixels.max() <= 255
    np.testing.assert_array_equal(display(type(image)(image.pixels, header)), plain)
    twin = tmp_path / "src" / path
    twin.parent.mkdir(parents=True)
    shutil.copy(src / path, twin)
    with_these(twin, BitsStored=8, HighBit=7, WindowCenter=128, WindowWidth=256, VOILUTFunction=None)
    preprocess(tmp_path / "src", tmp_path / "out", **SMALL)
    (row,) = manifest(tmp_path / "out")
    assert row["repairs"] == "" and "eight_bit_pixels" not in row["flags"]
    mended, broken = (stored(out, by_path(out)[path]) for out in (done, unrepaired))
    assert stored(tmp_path / "out", row) == mended != broken


@pytest.mark.parametrize("rule", ["photometric_disagrees", "window_outside_range"])
def test_a_repaired_image_is_that_of_the_sound_file(rule, src, of, done, unrepaired, tmp_path):
    "The same bytes for the wrong photometric interpretation; nearly the same grey for a window that was lost."
    intact = phantom.make_competition(tmp_path / "src", 5, test_patients=1, scale=.15, workers=1, progress=False)
    for file in (intact / "train_images").rglob("*.dcm"):
        if file.relative_to(intact).as_posix() != of[rule]: file.unlink()
    preprocess(intact, tmp_path / "out", **SMALL)
    (row,) = manifest(tmp_path / "out")
    if rule == "photometric_disagrees": assert stored(tmp_path / "out", row) == stored(done, by_path(done)[of[rule]])
    sound = picture(tmp_path / "out", row).astype(float).ravel()
    mended, broken = (picture(out, by_path(out)[of[rule]]).astype(float).ravel() for out in (done, unrepaired))
    assert np.corrcoef(sound, mended)[0, 1] > .95
    assert len(np.unique(broken)) < 3 or np.corrcoef(sound, broken)[0, 1] < 0


# ---- decisions of a person


def test_an_overruled_exclusion_is_ok_again(src, out, of, tmp_path):
    before, path = shards(out), of["blank"]
    preprocess(src, out, decisions=decide(tmp_path / "d.csv", (path, "blank", "overrule")), **SMALL)
    assert shards(out) == before and by_path(out)[path]["status"] == "ok" and by_path(out)[path]["reason"] == ""
    assert path in ok(out)
    (alarm,) = (a for a in alarms(out / "alarms.csv") if (a["path"], a["rule"]) == (path, "blank"))
    assert alarm["decision"] == "overrule"
    (tmp_path / "d.csv").unlink()
    now = tree(out)
    preprocess(src, out, **SMALL)
    assert tree(out) == now  # it is remembered
    preprocess(src, out, decisions=out / "decisions.csv", **SMALL)
    assert tree(out) == now


def test_of_two_reasons_one_overruled_still_excludes(src, out, of, tmp_path):
    path = of["empty_range"]
    assert {"empty_range", "blank"} <= set(by_path(out)[path]["flags"].split())
    preprocess(src, out, decisions=decide(tmp_path / "d.csv", (path, "blank", "overrule")), **SMALL)
    row = by_path(out)[path]
    assert row["status"] == "excluded" and "; blank" not in row["reason"] and row["reason"].startswith("empty_range ")


def test_what_cannot_be_read_is_failed_when_its_exclusion_is_overruled(src, out, of, tmp_path):
    decisions = decide(tmp_path / "d.csv", (of["colour"], "colour", "overrule"))
    assert preprocess(src, out, decisions=decisions, **SMALL).exit_status == 1
    assert by_path(out)[of["colour"]]["status"] == "failed"


def test_accepting_changes_nothing_but_the_decision(src, out, of, tmp_path):
    before, was = shards(out), tree(out)
    preprocess(src, out, decisions=decide(tmp_path / "d.csv", *((path, rule, "accept") for rule, path in of.items())),
               **SMALL)
    assert shards(out) == before and tree(out)["manifest.csv"] == was["manifest.csv"]
    assert {a["decision"] for a in alarms(out / "alarms.csv") if of.get(a["rule"]) == a["path"]} == {"accept"}
    as_before = [a | {"decision": ""} for a in alarms(out / "alarms.csv")]
    assert as_before == list(csv.DictReader(was["alarms.csv"].decode().splitlines()))


@pytest.mark.parametrize("rule", sorted(REPAIRED))
def test_an_overruled_repair_is_undone_in_its_shard_alone(rule, src, out, of, done, unrepaired, tmp_path):
    "To the bytes that `--repair none` gives; and the change of mind brings back what was."
    before, path = shards(out), of[rule]
    shard = f"{int(by_path(out)[path]['shard']):05d}"
    preprocess(src, out, decisions=decide(tmp_path / "d.csv", (path, rule, "overrule")), **SMALL)
    now = shards(out)
    assert {name for name in before if now[name] != before[name]} == {f"{shard}.tar", f"{shard}.csv"}
    for name, row in by_path(out).items():
        other = unrepaired if name == path else done
        if row["length"]: assert stored(out, row) == stored(other, by_path(other)[name]), name
    assert by_path(out)[path]["repairs"] == "" and rule in by_path(out)[path]["flags"].split()
    (alarm,) = (a for a in alarms(out / "alarms.csv") if (a["path"], a["rule"]) == (path, rule))
    assert (alarm["severity"], alarm["decision"]) == ("note", "overrule")
    preprocess(src, out, **SMALL)
    assert shards(out) == now  # nothing is made twice
    preprocess(src, out, decisions=decide(tmp_path / "d.csv", (path, rule, "accept")), **SMALL)
    assert {name: data for name, (_, data) in shards(out).items()} == {n: data for n, (_, data) in before.items()}


def test_decisions_given_at_the_start_do_what_later_ones_do(src, out, of, tmp_path):
    decisions = decide(tmp_path / "d.csv", (of["photometric_disagrees"], "photometric_disagrees", "overrule"),
                       (of["blank"], "blank", "overrule"))
    preprocess(src, out, decisions=decisions, **SMALL)
    preprocess(src, tmp_path / "at_once", decisions=decisions, **SMALL)
    assert tree(out) == tree(tmp_path / "at_once")


BAD_DECISIONS = {"path,rule\na,blank\n": "no column decision", "": "no column decision, path, rule",
                 "path,rule,decision\na,blnk,accept\n": "line 2: there is no rule 'blnk'",
                 "path,rule,decision\na,blank,\na,blank,no\n": "line 3: decision 'no', expected accept or overrule"}


@pytest.mark.parametrize("text, message", BAD_DECISIONS.items(), ids=["column", "empty", "rule", "decision"])
def test_bad_decisions_are_refused_before_anything_is_written(text, message, src, out, tmp_path, capsys):
    (tmp_path / "d.csv").write_text(text)
    before = tree(out)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(ValueError, match=f"d.csv.*{message}"):
            preprocess(src, folder, decisions=tmp_path / "d.csv", **SMALL)
    assert tree(out) == before and not (tmp_path / "new").exists()
    assert main(["preprocess", str(src), str(tmp_path / "new"), "--decisions", str(tmp_path / "d.csv")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_decisions_that_are_not_there_or_no_text_are_refused(src, out, tmp_path, capsys):
    before = tree(out)
    with pytest.raises(FileNotFoundError): preprocess(src, out, decisions=tmp_path / "no.csv", **SMALL)
    assert main(["preprocess", str(src), str(out), "--decisions", str(tmp_path / "no.csv")]) == 2
    assert "no.csv" in capsys.readouterr().err
    (tmp_path / "d.csv").write_bytes(b"path,rule,decision\nlatin\xe9,blank,accept\n")
    assert main(["preprocess", str(src), str(out), "--decisions", str(tmp_path / "d.csv")]) == 2
    assert main(["preprocess", str(src), str(out), "--decisions", str(tmp_path)]) == 2
    assert tree(out) == before


def test_decisions_as_a_spreadsheet_saves_them(tmp_path):
    "With a byte order mark, Windows' line ends, other columns, and none in most rows."
    file = tmp_path / "d.csv"
    file.write_bytes("\ufeffrule,decision,path,score\r\nblank,overrule,\"a,b.dcm\",1\r\nblank,,c.dcm,1\r\n".encode())
    assert read_decisions(file) == {("a,b.dcm", "blank"): "overrule"}
    assert Policy(("blank",), read_decisions(file)).overruled("a,b.dcm") == {"blank"}


# ---- the same by all ways


def test_all_ways_make_the_same_tables_and_shards(src, done, tmp_path):
    "Two workers; parts of two machines; a run that is killed and goes on."
    preprocess(src, tmp_path / "two", **SMALL | {"workers": 2})
    assert tree(tmp_path / "two") == tree(done)
    a, b = tmp_path / "a", tmp_path / "b"
    for k, part in enumerate((a, b), 1): preprocess(src, part, part=f"{k}/2", **SMALL)
    assert {r["path"] for r in manifest(a)}.isdisjoint(r["path"] for r in manifest(b))
    assert len(alarms(a / "alarms.csv")) + len(alarms(b / "alarms.csv")) == len(alarms(done / "alarms.csv"))
    for f in (b / "shards").iterdir(): shutil.copy2(f, a / "shards")
    preprocess(src, a, **SMALL)
    assert tree(a) == tree(done)


def test_a_killed_run_goes_on_to_the_same_tables(src, done, tmp_path):
    out = tmp_path / "out"
    args = [COMMAND, "preprocess", src, out, "--size", "128x64", "--shard-size", "4", "--workers", "1", "--no-progress"]
    run = subprocess.Popen(args, start_new_session=True, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not (out / "shards/00001.csv").exists() and run.poll() is None and time.monotonic() < until: time.sleep(.001)
    run.kill()
    run.wait()
    preprocess(src, out, **SMALL)
    assert tree(out) == tree(done)


@needs_dask
def test_a_cluster_makes_the_same_and_hears_of_decisions(src, done, out, of, tmp_path):
    decisions = decide(tmp_path / "d.csv", (of["eight_bit_pixels"], "eight_bit_pixels", "overrule"))
    preprocess(src, out, decisions=decisions, **SMALL)
    with dask(tmp_path) as cluster:
        cluster.worker()
        preprocess(src, tmp_path / "there", dask=cluster.address, **SMALL)
        assert tree(tmp_path / "there") == tree(done)
        preprocess(src, tmp_path / "there", dask=cluster.address, decisions=decisions, **SMALL)
    assert tree(tmp_path / "there") == tree(out)


def test_the_alarms_are_those_of_check_whatever_the_size(src, done, tmp_path):
    preprocess(src, tmp_path / "out", **SMALL | {"size": "1024x512"})  # for which every pixel is decoded
    assert (tmp_path / "out/alarms.csv").read_bytes() == (done / "alarms.csv").read_bytes()
    found = check(src, tmp_path / "check.csv", workers=1, progress=False)
    assert (tmp_path / "check.csv").read_bytes() == (done / "alarms.csv").read_bytes()
    with open(tmp_path / "check.csv", newline="") as f: assert next(csv.reader(f)) == list(ALARM_COLUMNS)
    assert found.images == len(manifest(done)) and [r["rule"] for r in found.rows] == [
        a["rule"] for a in alarms(done / "alarms.csv")]


def test_scores_are_rounded_once():
    "A score that is stored in a shard's rows and told later is told as one that is told at once."
    from mammo_kit.header_checks import Alarm
    from mammo_kit.preprocess import _alarms, _told
    for score in (1.2344996, 1.2345004, 99.995, 123456.7, 1e-9):
        alarm = Alarm("blank", score, "why", (.12344996, .2, .7, .98765004))
        again = _alarms(_told([alarm]))
        assert alarm_rows("a", (9999, 9999), again) == alarm_rows("a", (9999, 9999), [alarm])


# ---- overviews


def test_overviews_lie_beside_the_images_of_which_there_is_something_to_tell(src, done, of):
    for path, row in by_path(done).items():
        if not row["flags"] or not row["length"]:
            assert row["overview_offset"] == row["overview_length"] == ""
            continue
        tar = done / "shards" / f"{int(row['shard']):05d}.tar"
        data = tar.read_bytes()[int(row["overview_offset"]):][:int(row["overview_length"])]
        with tarfile.open(tar) as t:
            name = f"{row['patient_id']}/{row['image_id']}.overview.jpg"
            assert t.extractfile(name).read() == data and data[:3] == b"\xff\xd8\xff", name
            assert row["member"] == name.replace(".overview.jpg", ".png")  # one sample, as WebDataset groups them
        small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        height, width = int(row["source_height"]), int(row["source_width"])
        assert small.ndim == 2 and 192 <= max(small.shape) <= 384
        assert abs(small.shape[0] / small.shape[1] / (height / width) - 1) < .02
        if path in (of["laterality_disagrees"], of["eight_bit_pixels"]):  # the whole picture, not turned, repaired
            header = look(Pyramid(open_bytes((src / path).read_bytes())), REPAIRED).header
            whole = display(type(image := read(src / path))(image.pixels, header))
            whole = cv2.resize(whole, small.shape[::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(whole.astype(float) - small).mean() < 3


def test_alarms_have_their_place_in_pixels_of_the_source():
    from mammo_kit.header_checks import Alarm
    row, = alarm_rows("a.dcm", (3328, 2560), [Alarm("circle", 3.14159, "why", (.25, .5, .75, 1.))], Policy(("circle",)))
    assert (row["top"], row["left"], row["bottom"], row["right"]) == (832, 1280, 2496, 2560)
    assert (row["severity"], row["score"], row["decision"]) == ("exclude", "3.142", "")


# ---- the command


def test_the_command_takes_the_options_in_any_order(src, of, tmp_path, capsys):
    decisions = decide(tmp_path / "d.csv", (of["blank"], "blank", "overrule"))
    options = ["--size", "128x64", "--shard-size", "4", "--workers", "1", "--no-progress"]
    args = ["--exclude", "default", "implant", "--repair", "none", "--decisions", decisions]
    for out, order in (("a", ["SRC", "OUT", *args, *options]), ("b", [*args, *options, "SRC", "OUT"])):
        places = {"SRC": src, "OUT": tmp_path / out}
        assert main(["preprocess", *(str(places.get(a, a)) for a in order)]) == 0, capsys.readouterr()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert json.loads((tmp_path / "a/policy.json").read_text()) == {
        "exclude": sorted({n for n, r in RULES.items() if r.severity == "exclude"} | {"implant"})}
    assert load_settings(tmp_path / "a").repair == ()
    assert by_path(tmp_path / "a")[of["blank"]]["status"] == "ok"


@pytest.mark.parametrize("option, possible", [("exclude", set(RULES)), ("repair", REPAIRED)])
def test_an_unknown_rule_is_2_with_those_that_there_are(option, possible, src, tmp_path):
    ended = subprocess.run([COMMAND, "preprocess", src, tmp_path / "out", f"--{option}", "default", "implants"],
                           capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    assert ended.returncode == 2 and not (tmp_path / "out").exists() and "Traceback" not in ended.stderr
    assert f"{option} implants: expected default, none, or some of {' '.join(sorted(possible))}\n" in ended.stderr


# ---- inference


def test_inference_scores_what_training_excludes_and_repairs_as_its_model_says(src, of, done, trained, unrepaired,
                                                                               tmp_path, monkeypatch, one_thread):
    from mammo_kit import infer as module
    from mammo_kit.model import load_model, save_model
    made, real = {}, module.probabilities

    def watched(out, frame, *args):
        for r in frame.itertuples():
            made[r.path] = (out / "shards" / f"{r.shard:05}.tar").read_bytes()[r.offset:r.offset + r.length]
        return real(out, frame, *args)

    monkeypatch.setattr(module, "probabilities", watched)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/test_images").symlink_to(src / "train_images")
    shutil.copy(src / "train.csv", tmp_path / "src/test.csv")
    model, record = load_model(trained)
    for repair, reference in ((["default"], done), ([], unrepaired)):
        settings = record["settings"] | {"height": 128, "width": 64, "repair": list(rules_for(repair, "repair"))}
        save_model(tmp_path / "m.safetensors", model, record | {"settings": settings})
        result = module.infer([tmp_path / "m.safetensors"], tmp_path / "src", tmp_path / "s.csv", "none", workers=1,
                              progress=False)
        assert (result.exit_status, result.images.counts["failed"], result.images.counts["excluded"]) == (1, 2, 0)
        expected = {path.replace("train_images", "test_images"): stored(reference, row)
                    for path, row in by_path(reference).items() if row["length"]}
        assert made == expected and of["blank"].replace("train_images", "test_images") in made
        made.clear()
