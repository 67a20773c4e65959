"Evaluation: where a network looks, what belongs together, and numbers against other ways to compute them."
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve
from torch import nn

from mammo_kit.dataset import folds, images
from mammo_kit.evaluate import (
    by_group,
    calibration,
    calibration_error,
    case_sheet,
    evaluate,
    heat_map,
    learning_curves,
    overlay,
    read_run,
    roc_and_precision_recall,
    view_weights,
)
from mammo_kit.metrics import scores
from mammo_kit.model import MammogramModel, save_model
from mammo_kit.preprocess import load_settings, preprocess
from mammo_kit.train import Recipe, train


class Whole(nn.Module):
    "As MammogramModel, of any backbone with forward_features."
    views = None

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x, mask=None): return self.backbone(x).squeeze(1)


class Strided(nn.Module):
    "Convolutions that hand brightness on, and their largest answer: the brightest place decides."
    def __init__(self, *layers: nn.Conv2d, channels_last: bool = False):
        super().__init__()
        self.layers, self.num_features, self.channels_last = nn.Sequential(*layers), 1, channels_last
        for layer in layers: nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)

    def forward_features(self, x):
        x = self.layers(x)
        return x.permute(0, 2, 3, 1) if self.channels_last else x

    def forward(self, x): return self.forward_features(x).flatten(1).amax(1, keepdim=True)


def conv(kernel, stride, padding): return nn.Conv2d(1, 1, kernel, stride, padding)


def centre(heat: torch.Tensor) -> np.ndarray:
    "Row and column of the heat's centre of mass."
    places = np.stack(np.mgrid[:heat.shape[0], :heat.shape[1]])
    return (places * heat.numpy()).sum((1, 2)) / heat.numpy().sum()


@pytest.mark.parametrize("layers, places", [
    # by hand: the middle pixels of what an inner place of the grid looks at
    ([conv(3, 2, 1)] * 4, [0, 16, 32, 48, 64, 80, 96, 112]),
    ([conv(7, 2, 3), conv(3, 2, 1), conv(3, 2, 1), conv(3, 2, 1)], [0, 16, 32, 48, 64, 80, 96, 112]),
    ([conv(4, 4, 0), conv(2, 2, 0), conv(2, 2, 0)], [7.5, 23.5, 39.5, 55.5, 71.5, 87.5, 103.5, 119.5]),
    ([conv(16, 16, 0)], [7.5, 23.5, 39.5, 55.5, 71.5, 87.5, 103.5, 119.5])])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_heat_lies_on_the_bright_spot(layers, places, channels_last):
    model = Whole(Strided(*layers, channels_last=channels_last))
    for y, x in ((places[3], places[1]), (places[5], places[2])):
        picture = torch.zeros(1, 1, 128, 64)
        picture[0, 0, round(y - .5):round(y + 1), round(x - .5):round(x + 1)] = 1
        heat = heat_map(model, picture)[0]
        assert heat.max() == 1
        assert centre(heat) == pytest.approx([y, x], abs=.6)


def test_a_layer_padded_to_size_is_measured():
    "A tf_ network's kernel of 3, stride 2: all padding comes after, and a place looks one pixel further."
    from timm.layers import Conv2dSame
    model = Whole(Strided(*[Conv2dSame(1, 1, 3, 2) for _ in range(3)]))
    picture = torch.zeros(1, 1, 64, 64)
    picture[0, 0, 39, 23] = 1  # by hand: 2·(2·(2·4 + 1) + 1) + 1 and 2·(2·(2·2 + 1) + 1) + 1
    assert centre(heat_map(model, picture)[0]) == pytest.approx([39, 23], abs=.6)


def test_only_what_speaks_for_it_is_hot():
    "Weights of 2 on the left and −1 on the right, mean pooled: the left alone is hot, in proportion."
    backbone = Strided(conv(16, 16, 0))
    side = torch.tensor([2., -1.])  # of the two columns
    backbone.forward = lambda x: (backbone.forward_features(x) * side).mean((2, 3))
    picture = torch.zeros(1, 1, 64, 32)
    picture[0, 0, :16, :16], picture[0, 0, 48:, 16:], picture[0, 0, 32:48, :16] = 1, 1, .5
    heat = heat_map(Whole(backbone), picture)[0]
    assert (heat[7, 7], heat[40, 7], heat[56, 24]) == pytest.approx((1, .5, 0), abs=.07)
    assert heat_map(Whole(backbone), torch.zeros(1, 1, 64, 32)).sum() == 0  # and nothing speaks for it here


@pytest.mark.parametrize("backbone, pool", [
    ("test_convnext", "avg"), ("test_resnet", "max"), ("test_efficientnet", "avg"), ("test_mambaout", "avg"),
    ("test_vit", "avg"), ("test_vit", "token"), ("test_vit4", "avg"), ("test_nfnet", "avgmax"),
    ("swin_tiny_patch4_window7_224", "avg")])
def test_any_backbone_has_a_heat_map(backbone, pool, one_thread):
    torch.manual_seed(0)
    model = MammogramModel(backbone, pool, shape=(128, 64)).train()
    required = [p.requires_grad for p in model.parameters()]
    heat = heat_map(model, torch.randint(0, 256, (3, 1, 128, 64), dtype=torch.uint8) / 255)
    assert heat.shape == (3, 128, 64) and heat.dtype == torch.float32 and heat.isfinite().all()
    assert heat.min() >= 0 and heat.amax((1, 2)).tolist() == pytest.approx([1, 1, 1])
    assert heat.std() > .02  # a map, and not the same everywhere
    # and the network is as it was
    assert model.training and [p.requires_grad for p in model.parameters()] == required
    assert "forward_features" not in vars(model.backbone) and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_network_is_as_it_was_after_an_error():
    model = MammogramModel("test_resnet")
    with pytest.raises(ValueError, match="expected"): heat_map(model, torch.rand(2, 3, 64, 32))
    assert "forward_features" not in vars(model.backbone) and all(p.requires_grad for p in model.parameters())


def test_one_image_or_many_have_the_same_map(one_thread):
    model, x = MammogramModel("test_convnext", outputs=("cancer", "biopsy")).eval(), torch.rand(3, 1, 64, 32)
    assert torch.allclose(heat_map(model, x)[1], heat_map(model, x[1:2])[0], atol=1e-4)


@pytest.mark.parametrize("views", ["mean", "max", "gem", "attention"])
def test_a_breast_has_a_map_for_each_of_its_images(views, one_thread):
    torch.manual_seed(1)
    model = MammogramModel("test_resnet", "avg", views=views).eval()
    nn.init.ones_(model.backbone.get_classifier().weight)  # so that what a rectifier leaves speaks for it
    x, mask = torch.rand(2, 3, 1, 64, 32), torch.tensor([[True, True, False], [False, True, True]])
    heat = heat_map(model, x, mask)
    assert heat.shape == (2, 3, 64, 32) and not heat[~mask].any() and heat[mask].flatten(1).any(1).all()
    assert heat.amax((1, 2, 3)).tolist() == pytest.approx([1, 1])
    assert torch.allclose(heat_map(model, x[:1, :2])[0], heat[0, :2], atol=1e-4)  # without a mask: all
    weights = view_weights(model, x, mask)
    assert weights.sum(1).tolist() == pytest.approx([1, 1]) and not weights[~mask].any()
    with pytest.raises(ValueError, match="views None"): view_weights(MammogramModel("test_resnet"), x[:, 0])


def test_the_picture_stays_visible():
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    assert (overlay(grey, np.zeros((64, 64)))[..., 1] == grey).all()
    heat = np.zeros((64, 64))
    heat[20:40, 20:40] = 1
    shown = overlay(grey, heat)
    inside = shown[25:35, 25:35].astype(int)
    assert (np.diff(inside.sum(2), axis=1) > 0).all()  # brighter tissue is brighter still
    assert (shown[:10] == grey[:10, :, None]).all() and shown[20, 25, 0] > 200 > grey[20, 25]


# What models leave.

TARGET = "cancer"


def made(out: Path, folder: Path, fold=0, seed=0, p=None, views=None, backbone="test_resnet", **changed) -> Path:
    "A folder as `train` leaves it, of an untrained network."
    recipe = asdict(Recipe(backbone, "avg", n_folds=3, fold=fold, seed=seed)) | changed
    frame = images(out, labels=True)
    mine = frame[folds(frame, recipe["n_folds"], recipe.get("fold_seed", 0), TARGET) == fold]
    rng = np.random.default_rng(seed + 10 * fold)
    p = np.clip(.3 + .3 * mine[TARGET] + .3 * rng.random(len(mine)), 0, 1) if p is None else p
    columns = ["image_id", "patient_id", "laterality", "view", "breast_id", TARGET]
    held_out = mine[columns].assign(probability=p)
    folder.mkdir(parents=True)
    held_out.to_csv(folder / "held_out.csv", index=False)
    torch.manual_seed(seed)
    record = {"version": "0", "recipe": recipe, "settings": asdict(load_settings(out)),
              "decision": {"kind": "threshold", "threshold": .4 + .1 * fold, "prevalence": None},
              "scores": {"epoch": 1}}
    save_model(folder / "best.safetensors", MammogramModel(backbone, "avg", views=views), record)
    log = pd.DataFrame({"epoch": [0, 1], "loss": [1, .5], "auroc": [.5, .6], "average_precision": [.4, .5]})
    log.to_csv(folder / "log.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def three(prepared, tmp_path_factory) -> list[Path]:
    "Three folds."
    folder = tmp_path_factory.mktemp("three")
    return [made(prepared, folder / f"fold{k}", k) for k in range(3)]


def test_all_folds_together(prepared, three, tmp_path):
    seen = evaluate(prepared, three, tmp_path / "evaluation", hardest=3, draws=20)
    frame, written = images(prepared, labels=True), pd.read_csv(tmp_path / "evaluation" / "out_of_fold.csv", dtype=str)
    assert list(written) == ["image_id", "patient_id", "laterality", "view", "breast_id", "cancer", "probability",
                             "fold", "seed"]
    assert sorted(written["image_id"]) == sorted(frame["image_id"])
    # no breast was seen by the model that judges it
    expected = folds(frame, 3, 0).set_axis(frame["image_id"])
    assert (seen.images.set_index("image_id")["fold"] == expected[seen.images["image_id"]]).all()
    # and the numbers are those of the breasts, here computed from the files
    rows = pd.concat([pd.read_csv(f / "held_out.csv") for f in three]).groupby("breast_id")
    y, p = rows["cancer"].max(), rows["probability"].mean()
    assert seen.scores == pytest.approx({**scores(y, p), **{k: seen.scores[k] for k in (
        "pf1_at_threshold", "brier", "calibration_error")}})
    assert seen.scores["brier"] == pytest.approx(((p - y) ** 2).mean())
    assert seen.threshold == pytest.approx(.5)  # the mean, as `infer` takes it
    hit = p >= .5
    assert seen.scores["pf1_at_threshold"] == pytest.approx(2 * (hit & (y == 1)).sum() / (hit.sum() + y.sum()))
    assert "folds 0, 1, 2 of 3" in str(seen) and f"{len(y)} held-out breasts, {y.sum()} positive" in str(seen)
    assert not plt.get_fignums()


def test_seeds_of_a_fold_are_averaged(prepared, three, tmp_path):
    again = made(prepared, tmp_path / "again", 0, seed=7)
    seen = evaluate(prepared, [three[0], again, three[1]], tmp_path, hardest=1)
    mine = seen.images[seen.images["fold"] == 0].set_index("image_id")
    both = [pd.read_csv(f / "held_out.csv", dtype={"image_id": str}).set_index("image_id") for f in (three[0], again)]
    mean = (both[0]["probability"] + both[1]["probability"]) / 2
    assert mine["probability"].to_dict() == pytest.approx(mean.to_dict()) and set(mine["seed"]) == {"0 7"}
    assert set(seen.images.loc[seen.images["fold"] == 1, "seed"]) == {"0"}


def test_the_hardest_are_shown_with_what_a_reader_wants_to_know(prepared, three, tmp_path):
    seen = evaluate(prepared, three, tmp_path, hardest=2, draws=20)
    breasts = seen.breasts.set_index("breast_id")
    table = pd.read_csv(prepared / "train.csv", dtype=str)
    for cases, label, ascending in ((seen.positives, 1, True), (seen.negatives, 0, False)):
        expected = breasts[breasts["cancer"] == label].sort_values("probability", ascending=ascending)[:2]
        for case, (breast, row) in zip(cases, expected.iterrows(), strict=True):
            patient, side = breast.split("_")
            mine = table[(table["patient_id"] == patient) & (table["laterality"] == side)]
            assert f"patient {patient} {side} · probability {row['probability']:.3f}" in case.caption
            assert f"machine {mine['machine_id'].iloc[0]}" in case.caption
            density = mine["density"].iloc[0]
            assert isinstance(density, float) or f"density {density}" in case.caption
            assert sorted(v.caption[:4].strip() for v in case.views) == sorted(
                f"{side} {view}"[:4] for view in mine["view"])
            assert case.views[0].caption.startswith(f"{side} CC · image ")
            for view in case.views:
                assert view.pixels.shape == view.heat.shape == (64, 32) and view.pixels.dtype == np.uint8
    figure = case_sheet(seen.positives, "hardest")
    assert len(figure.axes) == 2 and figure.axes[0].get_title("left").replace("\n", " ") == seen.positives[0].caption
    with pytest.raises(ValueError, match="at least one"): case_sheet([])


def test_models_of_breasts_tell_their_attention(prepared, tmp_path):
    model = made(prepared, tmp_path / "model", views="attention")
    seen = evaluate(prepared, model, hardest=2)
    for case in seen.positives:
        shares = [int(v.caption.split("attention ")[1].rstrip("%")) for v in case.views]
        assert sum(shares) == pytest.approx(100, abs=2)
    assert (model / "out_of_fold.csv").is_file()  # one model's are beside it


def test_sixteen_bits(competition, tmp_path):
    preprocess(competition, tmp_path / "out", "64x32", workers=1, progress=False, bits=16)
    seen = evaluate(tmp_path / "out", made(tmp_path / "out", tmp_path / "model"), hardest=1)
    [view, *_] = seen.positives[0].views
    assert view.pixels.dtype == np.uint8 and view.pixels.max() > 50


def test_what_train_leaves(prepared, trained, tmp_path):
    seen = evaluate(prepared, trained, tmp_path)
    best = read_run(trained).record["scores"]
    assert [seen.scores[k] for k in ("auroc", "pf1", "n")] == pytest.approx([best[k] for k in ("auroc", "pf1", "n")])
    assert seen.scores["pf1_at_threshold"] == pytest.approx(best["pf1_binarised"])  # it was chosen on these
    assert len(seen.figures()) >= 3


def copied(folder: Path, to: Path) -> Path: return shutil.copytree(folder, to)


def change_held_out(folder: Path, how):
    frame = pd.read_csv(folder / "held_out.csv", dtype={"image_id": str, "patient_id": str})
    how(frame).to_csv(folder / "held_out.csv", index=False)


def test_what_does_not_belong_together_is_refused(prepared, three, competition, tmp_path):
    first = three[0]
    for words, changed in (("n_folds 2 there, 3 in", {"n_folds": 2}), ("fold_seed 5 there, 0 in", {"fold_seed": 5}),
                           ("target implant there, cancer in", {"target": "implant"})):
        other = made(prepared, tmp_path / words.split()[0], 1, **changed)
        if "target" in changed: change_held_out(other, lambda f: f.assign(implant=f[TARGET]))
        with pytest.raises(ValueError, match=f"{other.name} does not belong here: {words} {first}"):
            evaluate(prepared, [first, other], tmp_path / "e")
    preprocess(competition, tmp_path / "larger", "128x64", workers=1, progress=False)
    with pytest.raises(ValueError, match="height 64 there, 128 in .*; width 32 there, 64 in"):
        evaluate(tmp_path / "larger", first, tmp_path / "e")
    fewer = made(prepared, tmp_path / "fewer", 0, seed=1)
    change_held_out(fewer, lambda f: f[2:])
    with pytest.raises(ValueError, match="both of fold 0, but not of the same images: .* only in one of them"):
        evaluate(prepared, [first, fewer], tmp_path / "e")
    moved = made(prepared, tmp_path / "moved", 1)
    shutil.copy(first / "held_out.csv", moved)
    with pytest.raises(ValueError, match="patient .* is held out by .*fold0 and by .*moved, which are of different"):
        evaluate(prepared, [first, moved], tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_images_that_are_not_there_and_labels_that_have_changed(prepared, three, tmp_path):
    foreign = copied(three[0], tmp_path / "foreign")
    change_held_out(foreign, lambda f: f.assign(image_id=["77", *f["image_id"][1:]]))
    with pytest.raises(ValueError, match="1 of .* images are not in .*: 77; expected the images that the model"):
        evaluate(prepared, foreign)
    relabelled = copied(three[0], tmp_path / "relabelled")
    change_held_out(relabelled, lambda f: f.assign(cancer=[1 - f["cancer"][0], *f["cancer"][1:]]))
    with pytest.raises(ValueError, match="cancer of 1 images is not what .*train.csv says"):
        evaluate(prepared, relabelled)


def test_one_class_only(prepared, tmp_path):
    out = shutil.copytree(prepared, tmp_path / "out")
    model = made(out, tmp_path / "model")
    mine = pd.read_csv(model / "held_out.csv", dtype=str)["image_id"]
    table = pd.read_csv(out / "train.csv", dtype={"image_id": str})
    table.loc[table["image_id"].isin(mine), "cancer"] = 0
    table.to_csv(out / "train.csv", index=False)
    change_held_out(model, lambda f: f.assign(cancer=0))
    with pytest.raises(ValueError, match=r"cancer is 0 for all \d+ held-out breasts of .*: expected both 0 and 1"):
        evaluate(out, model)


def test_folders_that_are_none(prepared, three, recipe, tmp_path):
    def refused(words, *models):
        with pytest.raises(ValueError, match=words): evaluate(prepared, list(models), tmp_path / "e")

    refused("no model: expected at least one")
    refused("expected a folder of `mammo-kit train`, found nothing", tmp_path / "nowhere")
    refused("expected a folder of `mammo-kit train`, found a file", three[0] / "best.safetensors")
    (tmp_path / "empty").mkdir()
    refused("empty: no held_out.csv; expected a folder", tmp_path / "empty")
    train(prepared, tmp_path / "early", recipe, workers=0, progress=False, max_hours=1e-9)
    refused("early: its training has stopped before the first epoch had ended", tmp_path / "early")
    bare = copied(three[0], tmp_path / "bare")
    (bare / "best.safetensors").unlink()
    refused("best.safetensors is missing", bare)
    for column, value, words in (("probability", 1.5, "expected cancer 0 or 1 and probabilities from 0 to 1"),
                                 ("cancer", .5, "expected cancer 0 or 1"),
                                 ("probability", "x", "held_out.csv: expected a")):
        wrong = copied(three[0], tmp_path / f"{column}{value}")
        change_held_out(wrong, lambda f, c=column, v=value: f.assign(**{c: v}))
        refused(words, wrong)
    wrong = copied(three[0], tmp_path / "wrong")
    change_held_out(wrong, lambda f: f.drop(columns="breast_id"))
    refused("expected a table with image_id.*breast_id", wrong)


def test_logs_of_every_age(prepared, three, tmp_path):
    new = pd.read_csv(three[0] / "log.csv").assign(learning_rate=[.1, .2], held_out_loss=[.4, .3], pf1_binarised=.2)
    assert len(learning_curves({"old": new[["epoch", "loss", "auroc"]]}).axes) == 2
    figure = learning_curves({"new": new, "old": new[["epoch", "loss"]]}, {"new": 1})
    assert len(figure.axes) == 3 and [line.get_label() for line in figure.axes[0].lines][:2] == ["training", "held out"]
    without = copied(three[0], tmp_path / "without")
    (without / "log.csv").unlink()
    assert len(evaluate(prepared, without, hardest=0).figures()) >= 2


# Numbers.

def test_calibration_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    p = rng.random(500) ** 2
    y = (rng.random(500) < p).astype(int)
    table = calibration(y, p, 10)
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="uniform")
    assert table["observed"].tolist() == pytest.approx(observed)
    assert table["predicted"].tolist() == pytest.approx(predicted)
    assert table["n"].sum() == 500 and table["n_positive"].sum() == y.sum()
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    other = metrics.binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=10, norm="l1")
    assert calibration_error(table) == pytest.approx(float(other), abs=1e-6)
    assert calibration([0, 1], [0., 1.]).to_numpy().tolist() == [[0, .1, 1, 0, 0, 0], [.9, 1, 1, 1, 1, 1]]


@pytest.fixture(scope="module")
def breasts() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    y = (rng.random(400) < .2).astype(int)
    return pd.DataFrame({"cancer": y, "probability": np.clip(.3 * y + .7 * rng.random(400), 0, 1),
                         "patient_id": np.arange(400).astype(str), "density": rng.choice([*"ABC"], 400),
                         "machine_id": np.where(np.arange(400) < 30, "new", "old"), "implant": 0})


def test_groups(breasts):
    found = by_group(breasts, "cancer", .6, draws=50).set_index(["group", "value"])
    assert list(found.index) == [("all", ""), ("machine_id", "new"), ("machine_id", "old"), *(
        ("density", value) for value in "ABC")]  # one kind of implant is no group
    for value, part in breasts.groupby("density"):
        row = found.loc["density", value]
        assert (row["n"], row["n_positive"]) == (len(part), part["cancer"].sum())
        assert row["auroc"] == pytest.approx(scores(part["cancer"], part["probability"])["auroc"])
    few = found.loc["machine_id", "new"]
    assert few["n"] == 30 and few[3:].isna().all()
    enough = found.dropna()
    for c in ("auroc", "average_precision", "pf1"):
        assert (enough[f"{c}_low"] < enough[c]).all() and (enough[c] < enough[f"{c}_high"]).all()


def test_the_interval_is_one_of_patients(breasts):
    "A patient's breast that is there four times makes no result surer; four patients do."
    def width(frame):
        row = by_group(frame, "cancer", .6, ()).iloc[0]
        return row["auroc_high"] - row["auroc_low"]

    again = pd.concat([breasts] * 4, ignore_index=True)
    assert width(again) == pytest.approx(width(breasts))
    others = again.assign(patient_id=np.arange(len(again)).astype(str))
    assert width(others) == pytest.approx(width(breasts) / 2, rel=.3)


def test_groups_of_what_train_csv_has(prepared, three, tmp_path):
    out = shutil.copytree(prepared, tmp_path / "out")
    table = pd.read_csv(out / "train.csv")
    table["age"] = np.where(table["patient_id"] % 2, 49.9, 50)
    table.loc[table["patient_id"] == table["patient_id"].min(), "age"] = np.nan
    table.drop(columns=["density", "site_id"]).to_csv(out / "train.csv", index=False)
    groups = evaluate(out, three, tmp_path, hardest=0).groups.astype({"value": str})
    assert not {"density", "site_id"} & set(groups["group"])
    assert groups.loc[groups["group"] == "age", "value"].tolist() == ["40 to 49", "50 to 59", "unknown"]
    assert groups.loc[groups["group"] == "images", "n"].sum() == groups["n"].iloc[0]
    machines = groups.loc[groups["group"] == "machine_id", "value"].astype(int).tolist()
    assert machines == sorted(machines) and groups["auroc"].isna().iloc[-1]


def test_curves_need_both_kinds():
    with pytest.raises(ValueError, match="expected both 0 and 1"): roc_and_precision_recall(np.zeros(4), np.ones(4))
    figure = roc_and_precision_recall(np.array([0, 1, 0, 1]), np.array([.1, .9, .8, .3]), .5, np.array([0, 0, 1, 1]))
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [(*m.get_xdata(), *m.get_ydata()) for m in marks] == [(.5, .5)]  # by hand: .9 and .8 are alarms


def test_a_record_of_an_earlier_version(prepared, three, tmp_path):
    "Its seed was that of the folds too."
    from safetensors.torch import load_file, save_file
    old = copied(three[0], tmp_path / "old")
    record = read_run(old).record
    del record["recipe"]["fold_seed"]
    save_file(load_file(old / "best.safetensors"), old / "best.safetensors", {"mammo_kit": json.dumps(record)})
    assert read_run(old).split == read_run(three[1]).split
    assert evaluate(prepared, [old, three[1]], tmp_path, hardest=1).positives
