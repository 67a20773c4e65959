"Training whatever happens on the way: two processes, kills, damaged files, and labels that nothing can be learnt from."
import errno
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mammo_kit.checkpoint import load_state
from mammo_kit.dataset import batches, images
from mammo_kit.infer import infer, probabilities
from mammo_kit.model import MammogramModel, load_model, save_model
from mammo_kit.preprocess import Stopped, owned, preprocess
from mammo_kit.recipe import RECIPES, item_losses
from mammo_kit.train import Recipe, _network, _one_of_several, precision, predict, split, train

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
    if step == int(os.environ.get("AT_STEP", 0)):
        if "ONLY" not in os.environ: os.killpg(0, int(os.environ["SIGNAL"]))  # the loader's workers too
        elif os.environ["ONLY"] == os.environ.get("RANK", "0"): os.kill(os.getpid(), int(os.environ["SIGNAL"]))
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
        more = [w for w in launcher if w.startswith(("--save", "--processes"))]
        launcher = [w for w in launcher if w not in more]
        changed = {k: v for k, v in asdict(recipe).items() if v != getattr(Recipe(), k)}
        options = [f"--{k.replace('_', '-')}={v}" for k, v in changed.items()]
        return subprocess.run([*(launcher or [sys.executable]), script, "train", prepared, model, *options,
                               "--workers", str(workers), *more],
                              env=os.environ | {"NOTES": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""} | env,
                              capture_output=True, text=True, timeout=300, start_new_session=True)

    return start


def rebuilt(prepared, out, change):
    "A copy of the preprocessed images in `out` with train.csv changed by `change(frame)`."
    shutil.copytree(prepared, out)
    table = pd.read_csv(out / "train.csv")
    change(table).to_csv(out / "train.csv", index=False)
    return out


def files(model):
    return {f.name: f.read_bytes() for f in model.iterdir() if f.name != ".lock"}


def run(prepared, model, recipe, **options):
    return train(prepared, model, recipe, **{"workers": 0, "progress": False} | options)


def test_two_processes_learn_what_one_learns(prepared, recipe, start, tmp_path):
    "With the same batch, no augmentation, and a backbone in which no image of a batch knows of another."
    recipe = replace(recipe, epochs=2, augmentation="none")
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
    assert not list(model.glob(".*.tmp"))
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


def test_a_mistyped_option_takes_nothing_over(prepared, recipe, trained, tmp_path):
    with pytest.raises(ValueError, match="optimizer 'adamv': expected one of timm's"):
        run(prepared, tmp_path / "model", replace(recipe, optimizer="adamv"), resume=trained)
    assert not (tmp_path / "model").exists()


def test_a_state_of_before_there_was_a_choice_goes_on(prepared, recipe, trained, tmp_path):
    "A newer version has a field more than a state of an older one, which was trained as that field's default says."
    shutil.copytree(trained, older := tmp_path / "older")
    state = torch.load(older / "state.pt", weights_only=True)
    del state["run"]["drop_path"]
    torch.save(state, older / "state.pt")
    assert run(prepared, older, recipe).best == run(prepared, trained, recipe).best
    with pytest.raises(ValueError, match="another kind: drop_path 0.0 there, 0.1 now"):
        run(prepared, older, replace(recipe, drop_path=.1))


def test_a_run_of_another_kind_is_refused_with_the_difference(competition, prepared, recipe, trained, tmp_path):
    before = files(trained)
    with pytest.raises(ValueError, match="epochs 3 there, 4 now; learning_rate 0.003 there, 0.1 now") as told:
        run(prepared, trained, replace(recipe, epochs=4, learning_rate=.1))
    assert "images" not in str(told.value)
    preprocess(competition, tmp_path / "others", "64x32", fit="stretch", workers=1, progress=False)
    with pytest.raises(ValueError, match=r"run of another kind: images \d+ \(\w+\) there, \d+ \(\w+\) now"):
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


def test_a_damaged_state_costs_no_sound_one(prepared, recipe, trained, tmp_path, monkeypatch):
    "The newest is damaged, and the disk is full when the next is saved: the one before it is still there."
    shutil.copytree(trained, model := tmp_path / "model")
    shutil.copy(trained / "state.previous.pt", model)
    (model / "state.pt").write_bytes((trained / "state.pt").read_bytes()[:5000])

    def full(*_): raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as m, pytest.warns(UserWarning, match="state.pt is damaged .*going on from"):
        m.setattr("mammo_kit.checkpoint.torch.save", full)
        with pytest.raises(OSError, match="No space"): run(prepared, model, recipe)
    with pytest.warns(UserWarning, match="going on from state.previous.pt"): run(prepared, model, recipe)
    assert same_but_states(model, trained)


def test_two_damaged_states_are_refused_in_words_and_can_be_deleted(prepared, recipe, trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    for name in ("state.pt", "state.previous.pt"): (model / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"state\.pt and .*previous\.pt are damaged .*: delete them"):
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
        part = run(prepared, tmp_path / "parts", with_dropout, max_hours=0, workers=step % 2)
        assert (part.steps, part.exit_status) == (step, 3)
        assert f"stopped after step {step} of {whole.all_steps}; the same command goes on" in str(part)
    last = run(prepared, tmp_path / "parts", with_dropout, max_hours=0)
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
        assert "Traceback" not in ended.stderr and not list(model.glob(".*.tmp"))
        if name != "SIGKILL": assert "the same command goes on from here" in ended.stderr
    assert run(prepared, model, with_dropout).best == whole.best
    assert same_but_states(model, tmp_path / "whole")


def test_killed_alone_it_leaves_no_worker_that_holds_its_lock(prepared, with_dropout, start, tmp_path):
    model = tmp_path / "model"
    ended = start(model, with_dropout, "--save-minutes=0", workers=2, AT_STEP="2", SIGNAL="9", ONLY="0")
    assert time.time() - (tmp_path / "rank0").stat().st_mtime < 4  # its workers have its standard output, too
    assert ended.returncode == -9
    assert run(prepared, model, with_dropout, workers=2).best == run(prepared, tmp_path / "whole", with_dropout).best


UNCAUGHT = """
import os, signal, sys
from pathlib import Path
import torch
from mammo_kit import train

clip = train.Accelerator.clip_grad_norm_
def broken(*_): raise OSError("broken")
def ended(*args): os.killpg(0, signal.SIGTERM); return clip(*args)

torch.set_num_threads(1)
_, out, model, backbone, where = sys.argv
if where == "evaluation": train.Accelerator.gather_for_metrics = broken
else: train.Accelerator.clip_grad_norm_ = broken if where == "step" else ended
train.train(Path(out), Path(model), train.Recipe(backbone=backbone, batch_size=8), processes=1, workers=2)
"""


@pytest.mark.parametrize(("where", "error"), [("signal", "Stopped: SIGTERM came"), ("step", "OSError: broken"),
                                              ("evaluation", "OSError: broken")])
def test_a_script_that_lets_an_error_out_ends(where, error, prepared, recipe, tmp_path):
    "A traceback keeps the loaders' workers until Python ends them: they hear their parent."
    script, model = tmp_path / "script.py", tmp_path / "model"
    script.write_text(UNCAUGHT)
    ended = subprocess.run([sys.executable, script, prepared, model, recipe.backbone, where],
                           env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=60,
                           start_new_session=True)
    assert ended.returncode == 1
    assert error in ended.stderr.splitlines()[-1]


def sent(number):
    "`predict`, while this signal comes."
    def interrupted(*args):
        os.kill(os.getpid(), number)
        return predict(*args)
    return interrupted


@pytest.mark.parametrize(("name", "error"), [("SIGTERM", Stopped), ("SIGINT", KeyboardInterrupt)])
def test_a_signal_in_the_last_evaluation_is_passed_on(name, error, prepared, recipe, tmp_path, monkeypatch):
    "The model is complete, and whoever called `train` is to stop."
    recipe = replace(recipe, epochs=1)
    run(prepared, tmp_path / "whole", recipe)
    with monkeypatch.context() as m, pytest.raises(error) as told:
        m.setattr("mammo_kit.train.predict", sent(getattr(signal, name)))
        run(prepared, tmp_path / "model", recipe)
    if error is Stopped: assert str(told.value).startswith("SIGTERM came; best epoch 0")
    assert same_but_states(tmp_path / "model", tmp_path / "whole")
    assert run(prepared, tmp_path / "model", recipe).exit_status == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_what_came_before_an_evaluation_is_not_lost_in_it(workers, prepared, with_dropout, tmp_path, monkeypatch):
    "A state of an epoch whose steps are done, and that is still to be evaluated; also the last one."
    whole = run(prepared, tmp_path / "whole", with_dropout)
    steps = whole.all_steps // with_dropout.epochs

    def lost(*_): raise OSError("the power went out")
    for epoch in range(with_dropout.epochs):
        with monkeypatch.context() as m, pytest.raises(OSError, match="power"):
            m.setattr("mammo_kit.train.predict", lost)
            run(prepared, tmp_path / "parts", with_dropout, workers=workers, save_minutes=0)
        state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
        assert (state["epoch"], state["step"], len(state["log"])) == (epoch, steps, epoch)
        last = run(prepared, tmp_path / "parts", with_dropout, max_hours=0)
        assert last.steps == steps * (epoch + 1)
    assert (last.exit_status, last.best) == (0, whole.best)
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_loader_draws_is_not_taken_from_dropout(workers, prepared, with_dropout, tmp_path, monkeypatch):
    "Workers or none, stopped in the second of three epochs before anything of it was saved: the same bits."
    recipe = replace(with_dropout, epochs=3)
    whole = run(prepared, tmp_path / "whole", recipe)
    steps, real, seen = whole.all_steps // 3, item_losses, []

    def stop(*args):
        seen.append(0)
        if len(seen) == steps + 3: raise OSError("the power went out")
        return real(*args)
    with monkeypatch.context() as m, pytest.raises(OSError, match="power"):
        m.setattr("mammo_kit.train.item_losses", stop)
        run(prepared, tmp_path / "parts", recipe, workers=workers)
    run(prepared, tmp_path / "parts", recipe, workers=workers)
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")


EVERYTHING = {
    "of breasts": {"views": "attention", "n_images": 2, "auxiliary": {"density": .2, "age": .1, "BIRADS": .1},
                   "sampling": "positive", "batch_size": 4},
    "averaged": {"ema": .9, "drop_path": .3, "augmentation": "strong", "sampling": "1:1", "loss": "focal",
                 "positive_label": .9, "optimizer": "sgd", "schedule": "linear"}}


@pytest.mark.parametrize("options", EVERYTHING.values(), ids=EVERYTHING)
def test_every_kind_of_recipe_comes_back_to_the_same_bits(options, prepared, with_dropout, tmp_path):
    "Stopped at steps drawn by lot, with another number of workers each time, and with the images in memory in parts."
    recipe = replace(with_dropout, **options)
    whole = run(prepared, tmp_path / "whole", recipe, at_once=3)
    stops = np.random.default_rng(11).choice(np.arange(1, whole.all_steps), min(4, whole.all_steps - 1), replace=False)
    for session, stop in enumerate(sorted(stops)):
        while run(prepared, tmp_path / "parts", recipe, max_hours=0, at_once=3, workers=session % 3).steps < stop: pass
    last = run(prepared, tmp_path / "parts", recipe, at_once=3)
    assert (last.exit_status, last.best) == (0, whole.best)
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")
    network, record = load_model(last.model)
    assert network.views is not None if recipe.views else network.views is None
    assert Recipe(**record["recipe"]) == recipe


def test_a_batch_in_parts_is_the_batch(prepared, recipe, tmp_path):
    "Where no image of a batch knows of another, as in this backbone, and without anything random."
    recipe = replace(recipe, epochs=2, augmentation="none", auxiliary={"biopsy": .3, "density": .2})
    logs = [pd.read_csv(run(prepared, tmp_path / str(k), recipe, at_once=k).model / "log.csv") for k in (8, 3, 1)]
    for log in logs[1:]: np.testing.assert_allclose(log["loss"], logs[0]["loss"], rtol=1e-4)


def test_the_average_of_the_weights_is_what_is_kept(prepared, recipe, tmp_path):
    "After one step the average is the weights; a decay near 1 then holds them there."
    recipe = replace(recipe, epochs=1, augmentation="none", warmup=0)
    one = run(prepared, tmp_path / "one", replace(recipe, ema=.9999999))
    first = torch.load(one.model / "state.pt", weights_only=True)
    kept = load_model(one.model)[0].state_dict()
    far = [float((kept[k] - v).abs().max()) for k, v in first["model"].items()]
    near = [float((kept[k] - v).abs().max()) for k, v in first["average"].items()]
    assert max(near) == 0 < max(far)


def test_pretrained_weights_are_where_it_begins(prepared, recipe, trained, tmp_path):
    "A learning rate of nearly 0 leaves them as they were; a run that comes back does not need the file any more."
    weights = tmp_path / "somewhere" / "backbone.safetensors"
    weights.parent.mkdir()
    shutil.copy(trained / "last.safetensors", weights)
    recipe = replace(recipe, epochs=1, weights=str(weights), learning_rate=1e-12, weight_decay=0)
    assert run(prepared, tmp_path / "model", recipe, max_hours=0).exit_status == 3
    weights.unlink()
    again = run(prepared, tmp_path / "model", replace(recipe, weights="elsewhere/backbone.safetensors"))
    before, after = (load_model(f)[0].backbone.state_dict() for f in (trained / "last.safetensors", again.model))
    assert again.exit_status == 0
    assert all(torch.allclose(before[k], v, atol=1e-6) for k, v in after.items() if not k.startswith("head.fc"))


@pytest.mark.parametrize("name", ["rsna_1st", "notes"])
def test_the_known_recipes_step_at_a_fraction_of_their_size(name, prepared, tmp_path):
    "With their own networks, from nothing, on 64x32 pixels; the weights and the size are what they ask for."
    known = RECIPES[name]
    with pytest.raises(ValueError, match=f"images of 64x32, the recipe is for {known.size}"):
        run(prepared, tmp_path / "model", known)
    with pytest.raises(ValueError, match=f"weights {known.weights}: no such file"):
        run(prepared, tmp_path / "model", replace(known, size="", n_folds=3))
    part = run(prepared, tmp_path / "model", replace(known, size="", weights="", n_folds=3), max_hours=0)
    assert (part.steps, part.exit_status) == (1, 3)


def test_other_labels_are_another_run(prepared, recipe, trained, tmp_path):
    def one_more(table): return table.assign(cancer=table["cancer"].where(table.index != table["cancer"].idxmin(), 1))
    out = rebuilt(prepared, tmp_path / "out", one_more)
    with pytest.raises(ValueError, match="run of another kind: images"): run(out, trained, recipe)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_no_number_is_told_and_saved_nowhere(processes, prepared, recipe, tmp_path):
    "At a step in the middle; the state of before stays, and several processes end together."
    recipe = replace(recipe, learning_rate=1e9, warmup=0, clip=1e30, epochs=20)
    with pytest.raises(ValueError, match="diverged .*try a smaller learning_rate"):
        train(prepared, tmp_path, recipe, save_minutes=0, workers=0, progress=False, processes=processes)
    for file in tmp_path.glob("state*.pt"):
        assert all(v.isfinite().all() for v in torch.load(file, weights_only=True)["model"].values())


def test_what_one_process_cannot_read_ends_both(prepared, recipe, tmp_path):
    "A damaged image is in the share of one of them only; the other does not wait for it for ever."
    out = tmp_path / "out"
    shutil.copytree(prepared, out)
    row = split(images(out, labels=True), recipe)[0].iloc[5]
    shard = out / "shards" / f"{row['shard']:05}.tar"
    data = bytearray(shard.read_bytes())
    data[row["offset"]:row["offset"] + row["length"]] = bytes(row["length"])
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=f"image {row['image_id']} .*no grayscale image"):
        train(out, tmp_path / "model", recipe, workers=0, progress=False, processes=2)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Stopped("elsewhere")])
def test_an_error_of_one_process_comes_out_as_it_is(error, tmp_path, monkeypatch):
    "As what it is, so that the command ends with the status that belongs to it."
    monkeypatch.setenv("RANK", "1")

    def fail(): raise error
    monkeypatch.setattr("mammo_kit.train.train", fail)
    with pytest.raises(SystemExit): _one_of_several(tmp_path, {})
    told = pickle.loads((tmp_path / "1").read_bytes())
    assert type(told) is type(error) and str(told) == str(error)


def test_a_card_that_is_too_small_is_told_with_the_way_out(prepared, recipe, tmp_path, monkeypatch):
    def full(*_): raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr("mammo_kit.train.item_losses", full)
    with pytest.raises(ValueError, match="too little memory for 8 at once: try --at-once 4 .the batch stays as it is"):
        run(prepared, tmp_path, recipe)


def test_a_card_that_torch_has_no_code_for_is_told_before(prepared, recipe, tmp_path, monkeypatch):
    "A P100 under a torch for CUDA 13: `is_available` is true, and the first operation would fail."
    for name, value in {"is_available": True, "get_device_capability": (6, 0), "get_device_name": "Tesla P100",
                        "get_arch_list": ["sm_75", "sm_80", "sm_90", "compute_120"], "device_count": 1}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, value=value: value)
    with pytest.raises(ValueError, match="Tesla P100 has compute capability 6.0; .* built for sm_75.*NvidiaTeslaT4"):
        run(prepared, tmp_path / "model", recipe)
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 1), "bf16")):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_, value=capability: value)
        assert precision() == expected


@pytest.fixture
def half(monkeypatch):
    """half(precision): the processor computes in `train` as a card of this precision does, with its scaler and order of
    channels; gives the list that notes in which precision the network is called."""
    seen, forward = [], MammogramModel.forward

    class Pretended(Accelerator):
        def __init__(self, mixed_precision, cpu):
            AcceleratorState._reset_state(True)
            super().__init__(mixed_precision=mixed_precision, cpu=cpu)
            if mixed_precision == "fp16":  # which accelerate leaves out on a processor
                self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.**18)

    def noted(self, *inputs):
        seen.append(str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else "float32")
        return forward(self, *inputs)

    def half(precision):
        monkeypatch.setattr("mammo_kit.train.Accelerator", Pretended)
        monkeypatch.setattr("mammo_kit.train.precision", lambda: precision)
        monkeypatch.setattr("mammo_kit.train._network", lambda *a: _network(*a).to(memory_format=torch.channels_last))
        monkeypatch.setattr(MammogramModel, "forward", noted)
        return seen

    yield half
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "torch.bfloat16"), ("fp16", "torch.float16")])
def test_half_precision_comes_back_to_the_same_bits(precision, dtype, half, prepared, with_dropout, tmp_path):
    "With the scaler of fp16, which begins too high: the first steps overflow and are left out."
    seen, recipe = half(precision), replace(with_dropout, ema=.9)
    whole = run(prepared, tmp_path / "whole", recipe)
    assert seen.count("float32") == 1 and set(seen) == {"float32", dtype}  # one blank image, before anything
    for step in range(1, whole.all_steps): assert run(prepared, tmp_path / "parts", recipe, max_hours=0).steps == step
    assert run(prepared, tmp_path / "parts", recipe).best == whole.best
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")
    state = torch.load(tmp_path / "parts" / "state.pt")
    assert ("scaler" in state) == (precision == "fp16")
    assert precision == "bf16" or 1 < state["scaler"]["scale"] < 2**18
    assert all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.parametrize(("wrong", "diverges"), [([2], False), (range(2, 99), True)])
def test_fp16_forgives_one_overflow_but_not_all(wrong, diverges, half, prepared, recipe, tmp_path, monkeypatch):
    half("fp16")
    calls = []

    def overflowing(*args):
        calls.append(0)
        return item_losses(*args) * (torch.inf if len(calls) in wrong else 1)
    monkeypatch.setattr("mammo_kit.train.item_losses", overflowing)
    with pytest.raises(ValueError, match="diverged") if diverges else nullcontext():
        run(prepared, tmp_path, replace(recipe, epochs=6))
    assert np.isfinite(pd.read_csv(tmp_path / "log.csv")["loss"]).all()
    assert all(v.isfinite().all() for v in load_model(tmp_path)[0].state_dict().values())


def test_curves_for_tensorboard(prepared, recipe, tmp_path, monkeypatch):
    "Also of a run that was stopped within an epoch, and at the end of one."
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run(prepared, tmp_path, replace(recipe, epochs=1), tensorboard=True)
    run(prepared, tmp_path / "cut", recipe, tensorboard=True, max_hours=0)
    with monkeypatch.context() as m, pytest.raises(Stopped):
        m.setattr("mammo_kit.train.predict", sent(signal.SIGTERM))
        run(prepared, tmp_path / "cut", recipe, tensorboard=True)
    part = run(prepared, tmp_path / "cut", recipe, tensorboard=True)
    curves = EventAccumulator(str(tmp_path / "cut" / "tensorboard")).Reload()
    assert [e.step for e in curves.Scalars("loss")] == list(range(part.steps))
    each = part.steps // recipe.epochs
    assert [e.step for e in curves.Scalars("auroc")] == [each * (n + 1) - 1 for n in range(recipe.epochs)]
    np.testing.assert_allclose([e.value for e in curves.Scalars("auroc")],
                               pd.read_csv(tmp_path / "cut" / "log.csv")["auroc"], rtol=1e-6)


def test_the_hours_that_are_left_are_told(prepared, recipe, tmp_path, capsys):
    run(prepared, tmp_path, recipe, progress=True, max_hours=2)
    told = capsys.readouterr()
    assert "batches of 8, " in told.out and "float32 on cpu" in told.out
    assert "0:00 h to go of the 1:59 h left" in told.err + told.out


def test_two_runs_do_not_write_to_one_folder(prepared, recipe, tmp_path):
    with owned(tmp_path), pytest.raises(Stopped, match="another run is writing here"): run(prepared, tmp_path, recipe)
    assert not files(tmp_path)
    run(prepared, tmp_path, replace(recipe, epochs=1))


def test_a_full_disk_while_saving_leaves_the_state_before(prepared, recipe, trained, tmp_path, monkeypatch):
    model, real = tmp_path / "model", torch.save
    run(prepared, model, recipe, max_hours=0)

    class Full(io.BytesIO):
        "A disk that takes no more after some bytes, and then torch's words for it."
        room = 5000

        def write(self, data):
            if self.tell() + len(data) > self.room: raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    for room in (0, 5000, 10**5):
        monkeypatch.setattr(Full, "room", room)
        monkeypatch.setattr(torch, "save", lambda state, f: real(state, Full()))
        with pytest.raises(OSError, match="No space left"): run(prepared, model, recipe, max_hours=0)
    monkeypatch.setattr(torch, "save", real)
    assert list(files(model)) == ["state.pt"]
    run(prepared, model, recipe)
    assert same_but_states(model, trained)


def test_two_processes_stop_and_go_on_together(prepared, recipe, tmp_path):
    recipe = replace(recipe, epochs=2, augmentation="none", drop=.3)
    options = {"workers": 0, "progress": False, "processes": 2}
    whole = train(prepared, tmp_path / "whole", recipe, **options)
    part = train(prepared, tmp_path / "parts", recipe, max_hours=0, **options)
    assert (part.exit_status, part.steps) == (3, 1)
    assert train(prepared, tmp_path / "parts", recipe, **options).best == whole.best
    assert same_but_states(tmp_path / "parts", tmp_path / "whole")


def test_a_state_of_something_else_is_refused(prepared, recipe, tmp_path):
    for other in (3, {"a": 1}, {"recipe": 3, "images": 4}):
        torch.save(other, tmp_path / "state.pt")
        with pytest.raises(ValueError, match="state.pt is damaged"):
            run(prepared, tmp_path, recipe)


def test_a_state_before_the_last_is_a_state_for_resume_too(prepared, recipe, trained, tmp_path):
    "Here, where an earlier run must not be copied over it; and there, where it is all that a full disk has left."
    earlier, model = tmp_path / "earlier", tmp_path / "model"
    run(prepared, earlier, recipe, max_hours=0)
    model.mkdir()
    shutil.copy(trained / "state.pt", model / "state.previous.pt")
    assert run(prepared, model, recipe, resume=earlier).exit_status == 0
    assert load_state(model, torch.load(trained / "state.pt")["run"])["epoch"] == recipe.epochs
    (earlier / "state.pt").rename(earlier / "state.previous.pt")
    assert run(prepared, tmp_path / "again", recipe, resume=earlier, max_hours=0).steps == 2


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
    ({"backbone": "inception_v4"}, "'inception_v4' .*cannot take images of 64x32: .*Kernel size"),
    ({"backbone": "nest_tiny"}, "'nest_tiny' .*cannot be made: .*only handles square"),
    ({"size": "128x64"}, "images of 64x32, the recipe is for 128x64: preprocess with --size 128x64"),
    ({"weights": "nowhere.safetensors"}, "weights nowhere.safetensors: no such file"),
    ({"auxiliary": {"colour": 1}}, "auxiliary 'colour': expected a column of train.csv, such as biopsy"),
    ({"optimizer": "adamv"}, "optimizer 'adamv': expected one of timm's, .*adamw"),
    ({"optimizer": "fusedadam"}, "optimizer 'fusedadam' cannot be had here: .*APEX"),
    ({"sampling": "1:1", "batch_size": 34}, "do not fill a batch of 34"),
    ({"views": "max", "batch_size": 40}, "training breasts: choose a batch_size below 40"),
    ({"backbone": "test_convnet"}, "unknown to timm .*near: test_convnext"),
    ({"batch_size": 64}, "choose a batch_size below 64"),
    ({"n_folds": 13}, "13 folds of 12 patients")])
def test_recipes_that_do_not_fit_the_images_are_refused(options, message, prepared, recipe, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(prepared, tmp_path / "model", replace(recipe, **options))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"at_once": 0}, "at_once 0: expected at least 1"), ({"processes": -1}, "processes -1: expected at least 1"),
    ({"max_hours": float("nan")}, "max_hours nan"), ({"save_minutes": -1}, "save_minutes -1: expected at least 0"),
    ({"workers": -1}, "workers -1")])
def test_options_that_make_no_sense_are_refused(options, message, prepared, recipe, tmp_path):
    with pytest.raises(ValueError, match=message): run(prepared, tmp_path / "model", recipe, **options)
    assert not (tmp_path / "model").exists()


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
    recipe = replace(recipe, epochs=1, augmentation="none")
    alone = run(prepared, tmp_path / "one", recipe)
    two = train(prepared, tmp_path / "two", recipe, workers=0, progress=False, processes=2)
    logs = [pd.read_csv(tmp_path / n / "log.csv") for n in ("one", "two")]
    np.testing.assert_allclose(logs[1]["loss"], logs[0]["loss"], rtol=1e-4)
    assert (two.model, two.best["n"]) == (tmp_path / "two", alone.best["n"])
    with pytest.raises(ValueError, match="batch_size 7 cannot be shared by 2 processes"):
        train(prepared, tmp_path / "three", replace(recipe, batch_size=7), workers=0, progress=False, processes=2)


@pytest.mark.parametrize(("name", "to", "code"), [
    ("SIGINT", {}, 130), ("SIGTERM", {}, 3), ("SIGINT", {"ONLY": "1"}, 130), ("SIGTERM", {"ONLY": "1"}, 3)])
def test_two_processes_hear_a_signal_and_save(name, to, code, prepared, recipe, start, tmp_path):
    "A Ctrl-C reaches each process several times: from the terminal, and from torch's launcher."
    model, recipe = tmp_path / "model", replace(recipe, epochs=40)
    ended = start(model, recipe, "--processes=2", AT_STEP="7", SIGNAL=str(int(getattr(signal, name))), **to)
    assert ended.returncode == code, ended.stderr
    assert "the same command goes on from here" in ended.stderr
    state = torch.load(model / "state.pt", weights_only=True)
    steps = len(batches(np.zeros(len(split(images(prepared, labels=True), recipe)[0])), recipe.batch_size))
    assert 7 <= state["epoch"] * steps + state["step"] <= 7 + max(10, steps)


def test_one_of_two_processes_is_killed(prepared, recipe, start, tmp_path):
    "As by a machine that is short of memory."
    model = tmp_path / "model"
    ended = start(model, recipe, "--processes=2", "--save-minutes=0", AT_STEP="4", SIGNAL="9", ONLY="1")
    assert ended.returncode == 3, ended.stderr
    assert "one of 2 processes was killed" in ended.stderr and "goes on from what was saved last" in ended.stderr
    assert 1 <= torch.load(model / "state.pt", weights_only=True)["step"] <= 3


def test_two_processes_evaluate_the_model_that_is_saved(prepared, recipe, tmp_path):
    "With batch statistics, which each process averages over images of its own."
    recipe = replace(recipe, backbone="test_resnet", ema=.9, epochs=2)
    model = train(prepared, tmp_path / "model", recipe, workers=0, progress=False, processes=2).model
    told = pd.read_csv(model / "held_out.csv", dtype={"image_id": str, "patient_id": str})
    rows = split(images(prepared, labels=True), recipe)[1]
    network = load_model(model / "best.safetensors")[0]
    assert any("BatchNorm" in type(m).__name__ for m in network.modules())
    np.testing.assert_array_equal(rows["image_id"], told["image_id"])
    np.testing.assert_allclose(probabilities(prepared, rows, [network], workers=0)[0], told["probability"], rtol=1e-4)


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
