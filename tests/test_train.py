"Training whatever happens on the way: two processes, kills, damaged files, and labels that nothing can be learnt from."
import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from mammo_kit.dataset import images
from mammo_kit.infer import infer
from mammo_kit.model import load_model, save_model
from mammo_kit.preprocess import preprocess
from mammo_kit.train import Recipe, predict, split, train

# `mammo-kit train` on one thread, which a signal can hit in the middle of a step; each process notes how many there
# are.
pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = '''
import os, signal, sys
from pathlib import Path
import torch
from mammo_kit import cli, train

torch.set_num_threads(1)
step, real = 0, train.Accelerator.clip_grad_norm_

def clip(accelerator, *args):
    global step
    step += 1
    note = Path(os.environ["NOTES"]) / f"rank{accelerator.process_index}"
    note.write_text(f"{accelerator.num_processes} {accelerator.device.type} {step}")
    if step == int(os.environ.get("AT_STEP", 0)): os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return real(accelerator, *args)

train.Accelerator.clip_grad_norm_ = clip
if __name__ == "__main__": sys.exit(cli.main(sys.argv[1:]))
'''

@pytest.fixture
def start(prepared, tmp_path):
    "start(model, recipe, launcher, **environment): `mammo-kit train` in a process of its own, ended."
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(model, recipe, *launcher, workers=0, **env):
        more, launcher = [w for w in launcher if w.startswith("--save")], [w for w in launcher if w[:6] != "--save"]
        options = [f"--{k.replace('_', '-')}={v}" for k, v in asdict(recipe).items() if k != "augment"]
        return subprocess.run([*(launcher or [sys.executable]), script, "train", prepared, model, *options,
                               "--augment" if recipe.augment else "--no-augment", "--workers", str(workers), *more],
                              env=os.environ | {"NOTES": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""} | env,
                              capture_output=True, text=True, timeout=120)

    return start


def rebuilt(prepared, out, change):
    "A copy of the preprocessed images in `out` with train.csv changed by `change(frame)`."
    shutil.copytree(prepared, out)
    table = pd.read_csv(out / "train.csv")
    change(table).to_csv(out / "train.csv", index=False)
    return out


def files(model):
    return {f.name: f.read_bytes() for f in model.iterdir()}


def run(prepared, model, recipe, **options):
    return train(prepared, model, recipe, **{"workers": 0, "progress": False} | options)


def test_two_processes_learn_what_one_learns(prepared, recipe, start, tmp_path):
    "With the same batch, no augmentation, and a backbone in which no image of a batch knows of another."
    recipe = replace(recipe, epochs=2, augment=False)
    alone = run(prepared, tmp_path / "one", recipe).model
    assert not [m for m in load_model(alone)[0].modules() if "BatchNorm" in type(m).__name__]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = start(tmp_path / "two", recipe, *launcher)
    assert ended.returncode == 0, ended.stderr
    train_rows, valid_rows = split(images(prepared, labels=True), recipe)
    steps = 2 * (len(train_rows) // recipe.batch_size)
    assert [(tmp_path / f"rank{r}").read_text() for r in (0, 1)] == [f"2 cpu {steps}"] * 2
    assert not (tmp_path / "rank2").exists()
    assert ended.stdout.count("best epoch") == 1

    logs = [pd.read_csv(tmp_path / n / "log.csv") for n in ("one", "two")]
    np.testing.assert_allclose(logs[1]["loss"], logs[0]["loss"], rtol=1e-4)
    held_out = [pd.read_csv(tmp_path / n / "held_out.csv", dtype={"image_id": str}) for n in ("one", "two")]
    assert len(valid_rows) % 16, "no padding: choose other patients"  # two processes, twice the batch of 4 each
    assert held_out[1]["image_id"].tolist() == valid_rows["image_id"].tolist()
    np.testing.assert_allclose(held_out[1]["probability"], held_out[0]["probability"], rtol=1e-3)


def test_a_batch_that_two_processes_cannot_share_is_refused(prepared, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("mammo_kit.train.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match="batch_size 7 cannot be shared by 2 processes"):
        run(prepared, tmp_path / "model", replace(recipe, batch_size=7))


@pytest.mark.parametrize(("name", "before", "after"), [("SIGKILL", 1, 0), ("SIGINT", 0, 1)])
def test_stopped_in_the_middle_of_an_epoch_it_goes_on_to_the_same_bits(
        name, before, after, prepared, recipe, trained, start, tmp_path):
    model, number = tmp_path / "model", getattr(signal, name)
    steps = len(split(images(prepared, labels=True), recipe)[0]) // recipe.batch_size
    assert steps > 2
    ended = start(model, recipe, workers=before, AT_STEP=str(steps + 2), SIGNAL=str(int(number)))
    if name == "SIGKILL": assert ended.returncode == -number
    else:
        assert ended.returncode == 130
        assert "mammo-kit: interrupted; the same command goes on from here\n" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert (tmp_path / "rank0").read_text() == f"1 cpu {steps + 2}"
    assert len(pd.read_csv(model / "log.csv")) == 1
    assert not list(model.glob(".*"))
    again = run(prepared, model, recipe, workers=after)
    whole = files(trained)
    for file, data in files(model).items():
        if not file.startswith("state"): assert data == whole.pop(file), file
    assert set(whole) == {"state.pt", "state.previous.pt"}
    assert again.best == run(prepared, trained, recipe).best  # a finished run changes nothing and says the same


def test_a_finished_run_is_left_alone(prepared, recipe, trained):
    before = files(trained)
    run(prepared, trained, recipe)
    assert files(trained) == before


def test_a_run_of_another_kind_is_refused_with_the_difference(competition, prepared, recipe, trained, tmp_path):
    before = files(trained)
    with pytest.raises(ValueError, match="epochs 3 there, 4 now; learning_rate 0.002 there, 0.1 now") as told:
        run(prepared, trained, replace(recipe, epochs=4, learning_rate=.1))
    assert "other images" not in str(told.value)
    preprocess(competition, tmp_path / "others", "64x32", fit="stretch", workers=1, progress=False)
    with pytest.raises(ValueError, match="run of another kind: other images"):
        run(tmp_path / "others", trained, recipe)
    assert files(trained) == before


def test_no_patient_is_learnt_from_and_predicted(prepared, recipe, trained):
    frame = images(prepared, labels=True)
    seen = []
    for fold in range(recipe.n_folds):
        train_rows, valid_rows = split(frame, replace(recipe, fold=fold))
        assert not set(train_rows["patient_id"]) & set(valid_rows["patient_id"])
        assert len(train_rows) + len(valid_rows) == len(frame)
        seen += valid_rows["image_id"].tolist()
    assert sorted(seen) == sorted(frame["image_id"])
    held_out = pd.read_csv(trained / "held_out.csv", dtype=str)
    assert set(held_out["image_id"]) == set(split(frame, recipe)[1]["image_id"])


def test_the_model_file_alone_predicts(competition, trained, tmp_path):
    shutil.copy(trained / "best.safetensors", tmp_path / "renamed.model")
    for model, file in ((trained, "a.csv"), (tmp_path / "renamed.model", "b.csv")):
        infer([model], competition, tmp_path / file, decision="none", workers=1, progress=False)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def flipped(data, at, bit=0):
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1:]


DAMAGES = {"empty": lambda d: b"", "a byte": lambda d: d[:1], "half": lambda d: d[:len(d) // 2],
           "all but one": lambda d: d[:-1], "text": lambda d: b"hello, world, I am no model",
           "long length": lambda d: b"\xff" * 8 + d[8:], "zeros": lambda d: bytes(len(d)),
           "JSON": lambda d: d.replace(b'"mammo_kit":"{', b'"mammo_kit":"['),
           "record": lambda d: d.replace(b'\\"backbone\\"', b'\\"backbore\\"'),
           "name of a weight": lambda d: d.replace(b'"backbone.stem', b'"backbore.stem'),
           "not ours": lambda d: d.replace(b'"mammo_kit":', b'"other_kit":')}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_in_words(damage, trained, tmp_path):
    file = tmp_path / "best.safetensors"
    data = (trained / file.name).read_bytes()
    file.write_bytes(DAMAGES[damage](data))
    assert file.read_bytes() != data
    with pytest.raises(ValueError, match="best.safetensors") as told:
        load_model(tmp_path)
    assert "\n" not in str(told.value)


def test_a_model_with_any_damaged_header_is_refused_or_whole(trained, tmp_path):
    data, file = (trained / "best.safetensors").read_bytes(), tmp_path / "best.safetensors"
    rng = np.random.default_rng(0)
    for at, bit in zip(rng.integers(0, 2000, 60), rng.integers(0, 8, 60)):
        file.write_bytes(flipped(data, at, bit))
        try:
            load_model(file)
        except ValueError as e:
            assert str(file) in str(e)  # some flips change a digit, and nothing can tell


@pytest.mark.parametrize("damage", ["empty", "a byte", "half", "all but one", "text", "zeros", "somewhere"])
def test_where_a_state_is_damaged_the_one_before_it_serves(damage, prepared, recipe, trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    data, rng = (model / "state.pt").read_bytes(), np.random.default_rng(1)
    where = list(rng.integers(0, 12000, 5)) + [len(data) - int(n) for n in rng.integers(1, 12000, 5)]
    for harmed in [flipped(data, at) for at in where] if damage == "somewhere" else [DAMAGES[damage](data)]:
        (model / "state.pt").write_bytes(harmed)
        (model / "state.previous.pt").write_bytes((trained / "state.previous.pt").read_bytes())
        (model / "last.safetensors").unlink()
        run(prepared, model, recipe)
        if damage != "somewhere" or (model / "last.safetensors").exists():  # a flip in the padding harms nothing
            assert (model / "last.safetensors").read_bytes() == (trained / "last.safetensors").read_bytes()
        shutil.copy(trained / "last.safetensors", model)


def test_two_damaged_states_are_refused_in_words_and_can_be_deleted(prepared, recipe, trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    for name in ("state.pt", "state.previous.pt"): (model / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"state\.pt is damaged .*: delete it to train anew"):
        run(prepared, model, recipe)
    for name in ("state.pt", "state.previous.pt"): (model / name).unlink()
    run(prepared, model, recipe)
    assert (model / "last.safetensors").read_bytes() == (trained / "last.safetensors").read_bytes()


def same_but_states(model, other):
    kept = [{name: data for name, data in files(folder).items() if not name.startswith("state")}
            for folder in (model, other)]
    return kept[0] == kept[1] and len(kept[0]) == 4


@pytest.fixture
def with_dropout(recipe):
    "Something random in the network itself, too."
    return replace(recipe, drop=.3, epochs=2)


def test_stopped_after_every_single_step_it_ends_with_the_same_bits(prepared, with_dropout, tmp_path):
    whole = run(prepared, tmp_path / "whole", with_dropout)
    assert whole.exit_status == 0 and whole.steps == whole.all_steps > 6
    for step in range(1, whole.all_steps):
        part = run(prepared, tmp_path / "parts", with_dropout, hours=0, workers=step % 2)
        assert (part.steps, part.exit_status) == (step, 3)
        assert f"stopped after step {step} of {whole.all_steps}; the same command goes on" in str(part)
    last = run(prepared, tmp_path / "parts", with_dropout, hours=0)
    assert (last.exit_status, last.best) == (0, whole.best)
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize(("name", "workers"), [("SIGTERM", 1), ("SIGINT", 2), ("SIGKILL", 1)])
def test_a_signal_at_any_step_loses_nothing(name, workers, prepared, with_dropout, start, tmp_path):
    "SIGKILL loses what came after the last saved state, and that is done again."
    whole = run(prepared, tmp_path / "whole", with_dropout)
    number, model = getattr(signal, name), tmp_path / "model"
    for step in np.random.default_rng(3).integers(1, whole.all_steps // 2, 2):
        when = {"AT_STEP": str(step), "SIGNAL": str(int(number))}
        ended = start(model, with_dropout, "--save-minutes=0", workers=workers, **when)
        assert ended.returncode == {"SIGTERM": 3, "SIGINT": 130, "SIGKILL": -number}[name], ended.stderr
        assert "Traceback" not in ended.stderr and not list(model.glob(".*"))
    assert run(prepared, model, with_dropout).best == whole.best
    assert same_but_states(model, tmp_path / "whole")


def test_a_full_disk_while_saving_leaves_the_state_before(prepared, recipe, trained, tmp_path, monkeypatch):
    model, real = tmp_path / "model", torch.save
    run(prepared, model, recipe, hours=0)

    def full(state, f): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"): run(prepared, model, recipe, hours=0)
    monkeypatch.setattr(torch, "save", real)
    assert sorted(f.name for f in model.iterdir()) == ["state.previous.pt"]
    run(prepared, model, recipe)
    assert same_but_states(model, trained)


def test_two_processes_stop_and_go_on_together(prepared, recipe, tmp_path):
    recipe = replace(recipe, epochs=2, augment=False, drop=.3)
    options = {"workers": 0, "progress": False, "processes": 2}
    whole = train(prepared, tmp_path / "whole", recipe, **options)
    part = train(prepared, tmp_path / "parts", recipe, hours=0, **options)
    assert (part.exit_status, part.steps) == (3, whole.all_steps // 2)
    assert train(prepared, tmp_path / "parts", recipe, **options).best == whole.best
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")


def test_a_state_of_something_else_is_refused(prepared, recipe, tmp_path):
    for other in (3, {"a": 1}, {"recipe": 3, "images": 4}):
        torch.save(other, tmp_path / "state.pt")
        with pytest.raises(ValueError, match="state.pt is damaged"):
            run(prepared, tmp_path, recipe)


def all_of(value): return lambda t: t.assign(cancer=value)
def some_missing(t): return t.assign(cancer=t["cancer"].where(t.index > 2))
def some_rows_missing(t): return t[3:]
def of_one_patient(t): return t.assign(cancer=(t["patient_id"] == t["patient_id"].iloc[0]).astype(int))
def of_whole_patients(t): return t.assign(cancer=t["patient_id"].isin(t["patient_id"].unique()[:3]).astype(int))


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.drop(columns="cancer"), "no column 'cancer' to learn"),
    (some_missing, "cancer must be 0 or 1 to make folds: 3 of"),
    (some_rows_missing, "no row for 3 of"),
    (all_of("yes"), "cancer must be 0 or 1"),
    (all_of(0), "3 folds, but 0 of 12 patients have cancer"),
    (all_of(1), "cancer is 1 for all .* breasts: expected both"),
    (of_one_patient, "a fold without one cannot be scored"),
    (lambda t: t.drop(columns="patient_id"), "no column patient_id")])
def test_labels_that_nothing_can_be_learnt_from_are_refused(change, message, prepared, recipe, tmp_path):
    out = rebuilt(prepared, tmp_path / "out", change)
    with pytest.raises(ValueError, match=message):
        run(out, tmp_path / "model", recipe)
    assert not (tmp_path / "model").exists()


def test_a_held_out_fold_of_one_class_is_refused(prepared, recipe, tmp_path):
    "Three folds of three patients who have cancer in all breasts: every score of the held-out patient would be nan."
    keep = list(dict.fromkeys(images(prepared)["patient_id"]))[:3]
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    manifest = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    manifest[manifest["patient_id"].isin(keep)].to_csv(out / "manifest.csv", index=False)
    table = pd.read_csv(out / "train.csv", dtype=str)
    side = {keep[0]: ["L", "R"], keep[1]: ["L"], keep[2]: ["L"]}  # patient 0 has nothing but cancer
    table["cancer"] = [int(s in side.get(p, [])) for p, s in zip(table["patient_id"], table["laterality"])]
    table.to_csv(out / "train.csv", index=False)
    told = []
    for fold in range(3):
        try: split(images(out, labels=True), replace(recipe, fold=fold, batch_size=2))
        except ValueError as e: told.append(str(e))
    assert len(told) == 1 and "cancer is 1 for all 2 held-out breasts" in told[0]


def test_images_without_labels_or_settings_are_refused(prepared, recipe, tmp_path):
    shutil.copytree(prepared, tmp_path / "out")
    (tmp_path / "out" / "train.csv").unlink()
    with pytest.raises(ValueError, match="no train.csv with labels"):
        run(tmp_path / "out", tmp_path / "model", recipe)
    with pytest.raises(ValueError, match="settings.json is missing"):
        run(tmp_path / "nowhere", tmp_path / "model", recipe)


@pytest.mark.parametrize("options", [{}, {"batch_size": 32}])
def test_a_run_that_diverges_says_so_and_overwrites_nothing(options, prepared, recipe, tmp_path):
    "Within an epoch, where the loss is nan; and in its last step, where the loss is still finite."
    recipe = replace(recipe, learning_rate=1e9, warmup=0, clip=1e30, **options)
    with pytest.raises(ValueError, match="epoch 0 diverged .*try a smaller learning_rate"):
        run(prepared, tmp_path, recipe)
    assert not files(tmp_path)


def test_a_run_that_diverges_later_keeps_its_last_good_epoch(prepared, recipe, trained, tmp_path, monkeypatch):
    real, calls = predict, []

    def predict_nan_in_the_second_epoch(*args):
        calls.append(0)
        return real(*args) * (np.nan if len(calls) == 2 else 1)
    monkeypatch.setattr("mammo_kit.train.predict", predict_nan_in_the_second_epoch)
    with pytest.raises(ValueError, match="epoch 1 diverged"):
        run(prepared, tmp_path, recipe)
    assert len(pd.read_csv(tmp_path / "log.csv")) == 1
    assert all(torch.isfinite(v).all() for v in load_model(tmp_path)[0].state_dict().values())
    run(prepared, tmp_path, recipe)
    assert (tmp_path / "last.safetensors").read_bytes() == (trained / "last.safetensors").read_bytes()


@pytest.mark.parametrize(("options", "message"), [
    ({"warmup": 1.0}, "warmup 1.0: expected a share"), ({"warmup": -.1}, "warmup -0.1: expected a share"),
    ({"drop": 2.0}, "drop 2.0: expected a share"), ({"fold": 3}, "fold 3: expected 0 to 2"),
    ({"epochs": 0}, "epochs 0"), ({"learning_rate": float("nan")}, "learning_rate nan")])
def test_recipes_that_make_no_sense_are_refused(options, message, recipe):
    with pytest.raises(ValueError, match=message):
        replace(recipe, **options)


@pytest.mark.parametrize(("options", "message"), [
    ({"pool": "foo"}, "pool 'foo' cannot .*Invalid pool type"),
    ({"pool": ""}, "expected one that leaves a number for each image"),
    ({"backbone": "maxvit_pico_rw_256"}, "'maxvit_pico_rw_256' .*cannot take images of 64x32: .*divisible by window"),
    ({"backbone": "test_convnet"}, "unknown to timm .*near: test_convnext"),
    ({"batch_size": 64}, "choose a batch_size below 64"),
    ({"n_folds": 13}, "13 folds of 12 patients")])
def test_recipes_that_do_not_fit_the_images_are_refused(options, message, prepared, recipe, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(prepared, tmp_path / "model", replace(recipe, **options))


def test_a_warm_up_of_nearly_all_steps_is_possible(prepared, recipe, tmp_path):
    "Three steps, of which .99 round to three."
    run(prepared, tmp_path / "model", replace(recipe, epochs=1, warmup=.99))


def test_what_is_saved_is_what_was_asked(prepared, recipe, trained):
    log = pd.read_csv(trained / "log.csv")
    assert log["epoch"].tolist() == [0, 1, 2]
    record = load_model(trained)[1]
    assert Recipe(**record["recipe"]) == recipe
    assert (record["settings"]["height"], record["settings"]["width"]) == (64, 32)
    assert record["scores"]["auroc"] == log["auroc"].max()
    assert load_model(trained / "last.safetensors")[1]["scores"]["epoch"] == 2
    assert 0 <= record["decision"]["threshold"] <= 1


def test_a_model_that_cannot_be_written_leaves_the_old_one(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "best.safetensors", tmp_path)
    before = files(tmp_path)
    model, record = load_model(tmp_path)

    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path / "best.safetensors", model, record)
    assert files(tmp_path) == before


def test_train_starts_its_processes_itself(prepared, recipe, tmp_path):
    "As torchrun would, from Python or from a notebook; and what is wrong with the input is said as ever."
    recipe = replace(recipe, epochs=1, augment=False)
    alone = run(prepared, tmp_path / "one", recipe)
    two = train(prepared, tmp_path / "two", recipe, workers=0, progress=False, processes=2)
    logs = [pd.read_csv(tmp_path / n / "log.csv") for n in ("one", "two")]
    np.testing.assert_allclose(logs[1]["loss"], logs[0]["loss"], rtol=1e-4)
    assert (two.model, two.best["n"]) == (tmp_path / "two", alone.best["n"])
    with pytest.raises(ValueError, match="batch_size 7 cannot be shared by 2 processes"):
        train(prepared, tmp_path / "three", replace(recipe, batch_size=7), workers=0, progress=False, processes=2)


def test_a_run_goes_on_from_the_outputs_of_an_earlier_one(prepared, recipe, trained, tmp_path):
    "As on Kaggle: the earlier run is read-only and elsewhere, and here the folder is empty."
    shorter = replace(recipe, epochs=2)
    run(prepared, tmp_path / "earlier", shorter)
    before = files(tmp_path / "earlier")
    with pytest.raises(ValueError, match="epochs 2 there, 3 now"):
        train(prepared, tmp_path / "other", recipe, resume=tmp_path / "earlier", workers=0, progress=False)
    again = train(prepared, tmp_path / "again", recipe, resume=trained, workers=0, progress=False)
    assert files(again.model) == files(trained) and files(tmp_path / "earlier") == before
    with pytest.raises(ValueError, match=r"expected the folder of an earlier `mammo-kit train`, found no state\.pt"):
        train(prepared, tmp_path / "none", recipe, resume=tmp_path, workers=0, progress=False)
