"Inference whatever the test set is like: every row once, in order, finite, and its images made as those of training."
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_kit import infer as module
from mammo_kit.competition import MAMMOGRAPHY, open_source
from mammo_kit.dataset import read_image
from mammo_kit.infer import asked_rows, infer, write_submission
from mammo_kit.model import load_model, save_model
from mammo_kit.preprocess import Stopped, preprocess
from mammo_kit.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

PRIOR = 492 / 23826  # positive among all breasts of RSNA 2022

@pytest.fixture
def src(competition, tmp_path):
    "A copy of the competition's test set, to break; without the training set."
    shutil.copytree(competition / "test_images", tmp_path / "src" / "test_images")
    shutil.copy(competition / "test.csv", tmp_path / "src")
    return tmp_path / "src"


@pytest.fixture(scope="module")
def intact(competition, trained, tmp_path_factory):
    "The probabilities of the undisturbed test set."
    file = tmp_path_factory.mktemp("intact") / "submission.csv"
    result = run([trained], competition, file)
    assert (result.exit_status, result.priors) == (0, 0)
    return submitted(file)


def run(models, src, file, decision="none", **options):
    return infer(models, src, file, decision, **{"workers": 1, "progress": False} | options)


def submitted(file):
    "Every number as it was written: pandas 2 reads a third of all floats one unit in the last place off."
    return pd.read_csv(file, dtype=str).set_index("prediction_id")["cancer"].astype(float)


def rows_of(src):
    "The rows that a submission must have: those of test.csv in their order, each once."
    return list(dict.fromkeys(pd.read_csv(src / "test.csv", dtype=str)["prediction_id"]))


def test_files(src):
    "{prediction_id: files}"
    table = pd.read_csv(src / "test.csv", dtype=str)
    found = {}
    for r in table.itertuples():
        found.setdefault(r.prediction_id, []).append(src / "test_images" / r.patient_id / f"{r.image_id}.dcm")
    return found


test_files.__test__ = False


def told(file):
    "The manifest of an inference run."
    return pd.read_csv(file.with_suffix(".manifest.csv"), dtype=str, keep_default_na=False).set_index("image_id")


def assert_complete(src, file):
    values = submitted(file)
    assert values.index.tolist() == rows_of(src)
    assert np.isfinite(values).all() and values.between(0, 1).all()
    assert file.read_text().splitlines()[0] == "prediction_id,cancer"
    left = {f.name for f in file.parent.iterdir()} - {src.name}
    assert left == {file.name, f"{file.stem}.probabilities.csv", f"{file.stem}.manifest.csv"}


def nowhere(f):
    f.unlink()
    f.symlink_to("nowhere")


def a_folder(f):
    f.unlink()
    f.mkdir()


HARMS = {"empty": lambda f: f.write_bytes(b""), "text": lambda f: f.write_text("no image"),
         "header alone": lambda f: f.write_bytes(f.read_bytes()[:700]),
         "noise": lambda f: f.write_bytes(os.urandom(9999)),
         "cut": lambda f: f.write_bytes(f.read_bytes()[:-(f.stat().st_size // 2)]), "gone": lambda f: f.unlink(),
         "link to nothing": nowhere, "folder": a_folder}


def test_every_kind_of_broken_file_costs_its_own_row_only(src, trained, intact, tmp_path):
    "A breast without a readable image has the prior; one that keeps a view, that view's probability."
    units = test_files(src)
    assert len(units) == len(HARMS)
    lost, halved = list(units)[:4], list(units)[4:7]
    harms = list(HARMS.items())
    for unit, (_, harm) in zip(lost, harms):
        for file in units[unit]: harm(file)
    for unit, (_, harm) in zip(halved, harms[4:]): harm(units[unit][0])
    HARMS["folder"](units[halved[0]][1]) if len(units[halved[0]]) > 2 else None
    result = run([trained], src, file := tmp_path / "submission.csv")
    assert_complete(src, file)
    values = submitted(file)
    assert (result.exit_status, result.rows, result.priors) == (1, 8, 4)
    np.testing.assert_array_equal(values[lost], PRIOR)
    assert (values[halved] != intact[halved]).all() and (values[halved] != PRIOR).all()
    np.testing.assert_array_equal(values[list(units)[7:]], intact[list(units)[7:]])
    probabilities = pd.read_csv(file.with_suffix(".probabilities.csv"), index_col=0)["probability"]
    assert probabilities.index.tolist() == rows_of(src) and probabilities[lost].isna().all()
    manifest = told(file)
    for unit in lost + halved:
        broken = manifest.loc[units[unit][0].stem]
        assert broken["status"] == "failed" and len(broken["reason"]) > 9
    assert str(file.with_suffix(".manifest.csv")) in str(result)


@pytest.mark.parametrize("harm", ["text", "gone", "folder"])
def test_all_images_broken_or_gone(harm, src, trained, tmp_path):
    for files in test_files(src).values():
        for file in files: HARMS[harm](file)
    file = tmp_path / "submission.csv"
    if harm == "text":
        result = run([trained], src, file, "quantile")
        assert (result.exit_status, result.priors) == (1, 8)
        assert_complete(src, file)
    else:  # more likely a wrong folder than a test set: it says so, and the priors stand
        with pytest.raises(ValueError, match="test_images: no files in it"): run([trained], src, file)
        assert {f.name for f in tmp_path.iterdir()} == {"src", "submission.csv"}
    np.testing.assert_array_equal(submitted(file), PRIOR)
    assert submitted(file).index.tolist() == rows_of(src)


def test_extra_files_and_repeated_rows_change_nothing(src, trained, intact, tmp_path):
    "Strangers, a broken one, an image of another patient under a name that is asked for; and rows that stand twice."
    units = test_files(src)
    (one, *_), (other, *_), *_ = units.values()
    for name in ("9/1.dcm", "9/2.dcm", "stray.dcm", f"9/{one.name}"):
        (src / "test_images" / name).parent.mkdir(exist_ok=True)
        shutil.copy(other, src / "test_images" / name)
    (src / "test_images" / "9" / "3.dcm").write_text("broken")
    lines = (src / "test.csv").read_text().splitlines()
    (src / "test.csv").write_text("\n".join([lines[0], *lines[:0:-1], *lines[1:4]]) + "\n")  # backwards
    result = run([trained], src, file := tmp_path / "submission.csv")
    assert_complete(src, file)
    assert result.exit_status == 0
    assert set(told(file).index) == {f.stem for files in units.values() for f in files}
    np.testing.assert_allclose(submitted(file)[intact.index], intact, rtol=0, atol=1e-7)
    assert submitted(file).index.tolist() != intact.index.tolist()


def test_an_image_of_two_files_is_the_mean_of_both(src, trained, tmp_path):
    "7 and 7.dcm are both image 7: neither is left out, and nothing breaks."
    shutil.copytree(src / "test_images", src / "test_images" / "copy")  # other patients' folders: not asked for
    files = next(iter(test_files(src).values()))
    shutil.copy(files[1], files[0].with_suffix(""))
    assert run([trained], src, file := tmp_path / "submission.csv").exit_status == 0
    assert_complete(src, file)


def test_a_test_table_that_asks_for_nothing_and_one_that_lacks_columns(src, trained, tmp_path):
    head = (src / "test.csv").read_text().splitlines()[0]
    (src / "test.csv").write_text(head + "\n")
    assert run([trained], src, tmp_path / "submission.csv").rows == 0
    assert (tmp_path / "submission.csv").read_text() == "prediction_id,cancer\n"
    (src / "test.csv").write_text("patient_id,image\n1,2\n")
    with pytest.raises(ValueError, match="test.csv: no column image_id, laterality"):
        run([trained], src, tmp_path / "submission.csv")


def test_without_prediction_id_the_row_is_patient_and_side(src):
    table = pd.read_csv(src / "test.csv", dtype=str)
    table.drop(columns="prediction_id").to_csv(src / "test.csv", index=False)
    assert asked_rows(open_source(src))["prediction_id"].tolist() == table["prediction_id"].tolist()


def test_training_data_alone_and_test_images_without_their_table(competition, trained, intact, tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("train_images", "train.csv"): (tmp_path / "train" / name).symlink_to(competition / name)
    result = run([trained], tmp_path / "train", tmp_path / "train.csv")
    table = pd.read_csv(competition / "train.csv", dtype=str)
    assert submitted(tmp_path / "train.csv").index.tolist() == list(dict.fromkeys(
        table["patient_id"] + "_" + table["laterality"]))
    assert (result.exit_status, result.priors) == (0, 0)

    (tmp_path / "test").mkdir()
    for name in ("test_images", "train.csv"): (tmp_path / "test" / name).symlink_to(competition / name)
    result = run([trained], tmp_path / "test", tmp_path / "test.csv")
    assert (result.exit_status, result.priors) == (0, 0)
    np.testing.assert_array_equal(submitted(tmp_path / "test.csv")[intact.index], intact)


def test_a_table_whose_images_are_all_elsewhere_is_not_called_a_success(competition, trained, tmp_path):
    "test.csv with the training images: every row has the prior, and the exit status says so."
    (tmp_path / "src").mkdir()
    for name in ("train_images", "test.csv"): (tmp_path / "src" / name).symlink_to(competition / name)
    result = run([trained], tmp_path / "src", tmp_path / "submission.csv")
    assert (result.exit_status, result.rows, result.priors) == (1, 8, 8)
    assert set(told(tmp_path / "submission.csv")["status"]) == {"failed"}


def test_a_plain_folder_takes_sides_from_headers(competition, trained, intact, tmp_path):
    "Whatever cannot be read gets a row for its patient's folder; at the top of the folder, for its path."
    folder = tmp_path / "folder"
    shutil.copytree(competition / "test_images", folder / "clinic")
    patient = intact.index[0].split("_")[0]
    (folder / "clinic" / patient / "broken.dcm").write_text("broken")
    (folder / "clinic" / "lost").mkdir()
    (folder / "clinic" / "lost" / "broken.dcm").write_bytes(b"")
    (folder / "top.dcm").write_text("broken")
    result = run([trained], folder, file := tmp_path / "submission.csv")
    values = submitted(file)
    assert values.index.tolist() == sorted([*intact.index, patient, "lost", "top.dcm"])
    np.testing.assert_array_equal(values[[patient, "lost", "top.dcm"]], PRIOR)
    np.testing.assert_allclose(values[intact.index], intact, rtol=0, atol=1e-7)
    assert (result.exit_status, result.priors) == (1, 3)


def test_patients_without_a_name_are_not_mixed(competition, trained, tmp_path):
    "Two patients' files with an empty Patient ID at the top of a folder."
    import pydicom
    (tmp_path / "folder").mkdir()
    for i, files in enumerate(list(test_files(competition).values())[:3:2]):
        ds = pydicom.dcmread(files[0])
        ds.PatientID, side = "", ds.ImageLaterality
        ds.save_as(tmp_path / "folder" / f"{i}.dcm")
    run([trained], tmp_path / "folder", tmp_path / "submission.csv")
    assert submitted(tmp_path / "submission.csv").index.tolist() == [f"0.dcm_{side}", f"1.dcm_{side}"]


def test_decisions(competition, trained, intact, tmp_path):
    threshold = load_model(trained)[1]["decision"]["threshold"]
    scores = load_model(trained)[1]["scores"]
    run([trained], competition, file := tmp_path / "a.csv", "threshold")
    np.testing.assert_array_equal(submitted(file), (intact >= threshold).astype(float))
    run([trained], competition, file, "quantile")
    share = scores["n_positive"] / scores["n"]
    assert share == .5  # of 8 values, those above the mean of the fourth and the fifth
    np.testing.assert_array_equal(submitted(file), (intact >= np.sort(intact)[3:5].mean()).astype(float))
    assert submitted(file).sum() == 4
    probabilities = pd.read_csv(file.with_suffix(".probabilities.csv"), dtype=str)["probability"].astype(float)
    np.testing.assert_array_equal(probabilities, intact)


def test_an_unknown_decision_is_refused_before_the_work(competition, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("it worked first"))
    with pytest.raises(ValueError, match="decision 'best': expected none, threshold or quantile"):
        run([trained], competition, tmp_path / "submission.csv", "best")


def test_models_are_averaged_whatever_their_images(competition, prepared, recipe, trained, intact, tmp_path):
    "A second model of other images; the mean of both is what they say apart."
    preprocess(competition, tmp_path / "out", "48x48", fit="stretch", bits=16, workers=1, progress=False)
    other = train(tmp_path / "out", tmp_path / "model", replace(recipe, epochs=1, seed=1, batch_size=4), workers=0,
                  progress=False).model
    (work := tmp_path / "work").mkdir()
    run([other], competition, work / "other.csv")
    run([trained, other, trained / "best.safetensors"], competition, work / "all.csv")
    alone = submitted(work / "other.csv")
    assert (alone != intact).any()
    np.testing.assert_allclose(submitted(work / "all.csv"), (2 * intact + alone) / 3, atol=1e-7)
    assert len(list(work.iterdir())) == 6


def test_a_model_that_says_nan_gets_the_prior(competition, trained, tmp_path):
    model, record = load_model(trained)
    for p in model.parameters(): p.data.fill_(np.nan)
    save_model(tmp_path / "nan.safetensors", model, record)
    result = run([tmp_path / "nan.safetensors"], competition, tmp_path / "submission.csv", "threshold")
    assert result.priors == 8
    np.testing.assert_array_equal(submitted(tmp_path / "submission.csv"), PRIOR)


def fail(*_, **__): raise RuntimeError("CUDA error: out of memory")


@pytest.mark.parametrize("fault", ["no model", "damaged model", "preprocessing", "prediction"])
def test_whatever_fails_the_priors_stand_and_nothing_else(fault, src, trained, tmp_path, monkeypatch):
    model = trained
    if fault == "no model": model = tmp_path / "nowhere"
    if fault == "damaged model":
        (model := src / "damaged.safetensors").write_bytes((trained / "best.safetensors").read_bytes()[:5000])
    if fault == "preprocessing": monkeypatch.setattr(module, "run", fail)
    if fault == "prediction": monkeypatch.setattr(module, "probabilities", fail)
    with pytest.raises((ValueError, RuntimeError)):
        run([model], src, tmp_path / "submission.csv")
    assert {f.name for f in tmp_path.iterdir()} == {"src", "submission.csv"}
    values = submitted(tmp_path / "submission.csv")
    assert values.index.tolist() == rows_of(src)
    np.testing.assert_array_equal(values, PRIOR)


def test_no_models_at_all_are_refused(competition, tmp_path):
    with pytest.raises(ValueError, match="no model: expected at least one"): run([], competition, tmp_path / "s.csv")


def test_ctrl_c_leaves_the_priors_and_nothing_temporary(src, trained, tmp_path):
    "The whole group of processes gets the signal, as from a terminal, while images are made."
    for patient in list((src / "test_images").iterdir()):  # enough for a while
        for k in range(40): shutil.copytree(patient, patient.parent / f"{patient.name}{k}")
    command = [Path(sys.executable).with_name("mammo-kit"), "infer", trained, src, tmp_path / "submission.csv",
               "--workers", "1", "--no-progress"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".images_*/shards/.*.tmp")) and process.poll() is None and time.monotonic() < until:
        time.sleep(.01)
    os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert words.endswith("mammo-kit: interrupted\n")
    assert "mammo_kit/" not in words  # Python itself may complain of being interrupted at its start
    assert {f.name for f in tmp_path.iterdir()} == {"src", "submission.csv"}
    np.testing.assert_array_equal(submitted(tmp_path / "submission.csv"), PRIOR)


def test_what_trained_is_what_predicts(competition, trained, tmp_path, monkeypatch):
    "The bytes of every image that inference makes are those of `preprocess` with the settings of training."
    made = {}

    def look(out, frame, *args):
        for r in frame.itertuples():
            made[r.image_id] = (out / "shards" / f"{r.shard:05}.tar").read_bytes()[r.offset:r.offset + r.length]
        return real(out, frame, *args)
    real = module.probabilities
    monkeypatch.setattr(module, "probabilities", look)
    # The training images as if they were to be predicted: the very files that the model was trained on.
    (src := tmp_path / "src").mkdir()
    (src / "test_images").symlink_to(competition / "train_images")
    shutil.copy(competition / "train.csv", src / "test.csv")
    run([trained], src, tmp_path / "submission.csv")
    preprocess(competition, out := tmp_path / "out", "64x32", workers=1, progress=False)
    manifest = pd.read_csv(out / "manifest.csv", dtype={"image_id": str})
    assert len(manifest) == len(made) > 40
    for r in manifest.itertuples():
        assert (out / "shards" / f"{r.shard:05}.tar").read_bytes()[r.offset:r.offset + r.length] == made[r.image_id]


# ---- more images than the disk holds


@pytest.fixture(scope="module")
def of_breasts(prepared, recipe, tmp_path_factory):
    "The folder of a model that looks at all images of a breast together."
    how = replace(recipe, views="attention", epochs=1, batch_size=4)
    return train(prepared, tmp_path_factory.mktemp("breasts") / "model", how, workers=0, progress=False).model


def with_room_for(monkeypatch, n):
    "As if the disk had room for so many images of 64x32."
    free = -(-n * (64 * 32 + 100_000) * 5 // 4)
    monkeypatch.setattr(module, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free)))


def looked_at(monkeypatch):
    "Those tables of images that models look at, each when it is looked at."
    tables, real = [], module.probabilities

    def look(out, frame, *args):
        tables.append(frame)
        return real(out, frame, *args)
    monkeypatch.setattr(module, "probabilities", look)
    return tables


@pytest.mark.parametrize("n", [1, 5, 10])
def test_the_number_of_portions_changes_no_probability(n, src, trained, of_breasts, tmp_path, monkeypatch):
    tables = looked_at(monkeypatch)
    whole = run([trained, of_breasts], src, tmp_path / "whole.csv")
    assert len(tables) == 1
    with_room_for(monkeypatch, n)
    result = run([trained, of_breasts], src, tmp_path / "parts.csv")
    in_parts = tables[1:]
    patients = [set(t["patient_id"]) for t in in_parts]
    assert len(in_parts) == {1: 4, 5: 4, 10: 3}[n] and len(set.union(*patients)) == sum(map(len, patients)) == 4
    assert sum(map(len, in_parts)) == len(tables[0])
    np.testing.assert_allclose(submitted(tmp_path / "parts.csv"), submitted(tmp_path / "whole.csv"), rtol=0, atol=1e-6)
    assert (tmp_path / "parts.manifest.csv").read_bytes() == (tmp_path / "whole.manifest.csv").read_bytes()
    assert (result.images.counts, result.priors) == (whole.images.counts, 0)


def test_after_each_portion_the_submission_is_whole_and_knows_what_is_known(src, trained, tmp_path, monkeypatch):
    "Also where there is no table and the sides are not known before: then unread patients have one row each."
    with_room_for(monkeypatch, 1)
    seen, real = [], module.probabilities

    def look(*args):
        seen.append(submitted(tmp_path / "submission.csv"))
        if len(seen) == 3: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(module, "probabilities", look)
    with pytest.raises(KeyboardInterrupt): run([trained], src, tmp_path / "submission.csv")
    seen.append(submitted(tmp_path / "submission.csv"))
    assert all(values.index.tolist() == rows_of(src) for values in seen)
    assert [int((values != PRIOR).sum()) for values in seen] == [0, 2, 4, 4]
    assert not list(tmp_path.glob(".images_*"))

    (src / "test.csv").unlink()
    seen.clear()
    with pytest.raises(KeyboardInterrupt): run([trained], src, tmp_path / "submission.csv")
    patients = sorted(f.name for f in (src / "test_images").iterdir())
    assert seen[0].index.tolist() == patients
    assert seen[2].index.tolist() == [f"{p}_{side}" for p in patients[:2] for side in "LR"] + patients[2:]


def test_a_test_set_larger_than_the_disk(src, trained, tmp_path):
    "Images of 512x256, on a disk that holds two thirds of them."
    network, record = load_model(trained)
    record["settings"] |= {"height": 512, "width": 256}
    save_model(src / "large.safetensors", network, record)
    run([src / "large.safetensors"], src, tmp_path / "submission.csv")
    preprocess(src, tmp_path / "all", "512x256", split="test", exclude=("none",), workers=1, progress=False)
    size = sum(f.stat().st_size for f in (tmp_path / "all" / "shards").glob("*.tar"))
    (disk := tmp_path / "disk").mkdir()
    mount = shutil.which("mount")
    options = f"size={size * 2 // 3}"
    if os.geteuid() or not mount or subprocess.run([mount, "-t", "tmpfs", "-o", options, "mammo-kit-test", disk],
                                                   capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted as root")
    try:
        with pytest.raises(Stopped):
            preprocess(src, disk / "out", "512x256", split="test", exclude=("none",), workers=1, progress=False)
        shutil.rmtree(disk / "out")
        result = run([src / "large.safetensors"], src, disk / "submission.csv")
        np.testing.assert_allclose(submitted(disk / "submission.csv"), submitted(tmp_path / "submission.csv"),
                                   rtol=0, atol=1e-6)
        assert (result.exit_status, result.priors) == (0, 0)
    finally: subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("most, portions", [(9, ["aabbbcd"]), (4, ["aa", "bbbc", "d"]), (1, ["aa", "bbb", "c", "d"]),
                                            (0, ["aa", "bbb", "c", "d"])])
def test_portions_are_full_and_groups_stay_whole(most, portions):
    assert ["".join(p) for p in module.portions("abcabdb", str, most)] == portions


def test_a_plain_folder_is_never_divided(competition, trained, tmp_path, monkeypatch):
    "Only the headers know who is who: a patient's files may lie anywhere."
    tables = looked_at(monkeypatch)
    with_room_for(monkeypatch, 1)
    shutil.copytree(competition / "test_images", tmp_path / "folder" / "clinic")
    run([trained], tmp_path / "folder", tmp_path / "submission.csv")
    assert len(tables) == 1


# ---- models of breasts


def test_a_breast_is_predicted_from_all_images_that_can_be_read(src, of_breasts, tmp_path):
    "As the network itself says of these images together; each row of the breast has it."
    units = test_files(src)
    lost, halved = list(units)[0], list(units)[1]
    for file in units[lost]: HARMS["empty"](file)
    HARMS["cut"](units[halved][0])
    result = run([of_breasts], src, file := tmp_path / "submission.csv")
    assert_complete(src, file)
    values = submitted(file)
    assert (result.priors, values[lost]) == (1, PRIOR)
    preprocess(src, out := tmp_path / "out", "64x32", split="test", exclude=("none",), workers=1, progress=False)
    images = pd.read_csv(out / "manifest.csv", dtype={"image_id": str}).query("status == 'ok'")
    images = images.set_index("image_id").assign(image_id=lambda t: t.index)
    network, _ = load_model(of_breasts)
    for unit, files in units.items():
        rows = [images.loc[f.stem] for f in files if f.stem in images.index]
        assert len(rows) == len(files) - len(files) * (unit == lost) - (unit == halved)
        if not rows: continue
        x = torch.from_numpy(np.stack([read_image(out, r) for r in rows]))[None, :, None]
        with torch.inference_mode(): expected = network(x).sigmoid().item()
        assert abs(values[unit] - expected) < 1e-6


def test_models_of_images_and_of_breasts_are_averaged(competition, trained, of_breasts, intact, tmp_path):
    run([of_breasts], competition, tmp_path / "breasts.csv")
    run([trained, of_breasts], competition, tmp_path / "both.csv")
    alone = submitted(tmp_path / "breasts.csv")
    assert (alone != intact).all()
    np.testing.assert_allclose(submitted(tmp_path / "both.csv"), (intact + alone) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind, tried", [("trained", [16, 8, 4, 2]), ("of_breasts", [8, 4, 2])])
def test_a_card_without_memory_gets_smaller_batches(kind, tried, competition, tmp_path, monkeypatch, request):
    model, sizes, real = request.getfixturevalue(kind), [], module.predict
    run([model], competition, tmp_path / "before.csv")

    def predict(accelerator, network, loader):
        first = next(iter(loader))
        sizes.append(len(first if torch.is_tensor(first) else first[0]))
        if sizes[-1] > 4: raise torch.OutOfMemoryError("a small card")
        if sizes[-1] > 2: raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return real(accelerator, network, loader)
    monkeypatch.setattr(module, "predict", predict)
    run([model, model], competition, tmp_path / "after.csv")
    assert sizes == tried * 2
    np.testing.assert_allclose(submitted(tmp_path / "after.csv"), submitted(tmp_path / "before.csv"), rtol=0, atol=1e-6)
    monkeypatch.setattr(module, "predict", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(torch.OutOfMemoryError): run([model], competition, tmp_path / "never.csv")
    np.testing.assert_array_equal(submitted(tmp_path / "never.csv"), PRIOR)


def test_a_submission_of_bad_numbers_is_not_written(tmp_path):
    for bad in (np.nan, np.inf, -.1, 1.1):
        with pytest.raises(ValueError, match="1 numbers are not in"):
            write_submission(tmp_path / "s.csv", pd.Series([.5, bad], ["1_L", "1_R"]), MAMMOGRAPHY)
    assert not list(tmp_path.iterdir())
