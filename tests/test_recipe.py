"What a recipe says: targets from a table as it really is, losses against torch's own, weights found by their name."
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mammo_kit.recipe import RECIPES, Recipe, Target, find_weights, item_losses, targets

CANCER = [Target("cancer", 1.0)]


def logits_and_labels(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return (torch.tensor(rng.normal(0, 3, n), dtype=torch.float32),
            torch.tensor(rng.integers(0, 2, (n, 1)), dtype=torch.float32))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name):
    "As from the record in a model file."
    recipe = replace(RECIPES[name], auxiliary={"density": .1}, views="gem")
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize(("options", "message"), [
    ({"views": "median"}, "views 'median': expected one of None, mean, max, gem, attention"),
    ({"loss": "mse"}, "loss 'mse': expected one of bce, focal"),
    ({"augmentation": "wild"}, "augmentation 'wild': expected one of none, geometric, moderate, strong"),
    ({"schedule": "step"}, "schedule 'step'"), ({"sampling": "2:1"}, "sampling '2:1': expected natural"),
    ({"size": "2048"}, "2048"), ({"positive_label": 0}, "positive_label 0"), ({"positive_label": 1.1}, "at most 1"),
    ({"auxiliary": {"density": 0}}, "auxiliary density 0: expected a weight"), ({"ema": 1.0}, "ema 1.0"),
    ({"auxiliary": {"density": math.nan}}, "auxiliary density nan"), ({"learning_rate": math.inf}, "learning_rate inf"),
    ({"n_images": 0}, "n_images 0"), ({"weight_decay": -1}, "weight_decay -1"),
    ({"focal_gamma": math.nan}, "focal_gamma nan"), ({"seed": 2**32}, "seed 4294967296: expected a whole number")])
def test_recipes_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message): Recipe(**options)


@pytest.mark.parametrize("weight", [1, 3, .5])
def test_the_loss_is_that_of_torch(weight):
    x, y = logits_and_labels()
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(float(weight)))(x, y[:, 0])
    torch.testing.assert_close(item_losses(x, y, CANCER, Recipe(positive_weight=weight)).mean(), expected)


@pytest.mark.parametrize("weight", [1, 3])
def test_a_focal_loss_that_turns_from_nothing_is_cross_entropy(weight):
    x, y = logits_and_labels()
    focal, bce = (item_losses(x, y, CANCER, Recipe(loss=loss, positive_weight=weight, focal_gamma=0))
                  for loss in ("focal", "bce"))
    torch.testing.assert_close(focal, bce)
    turned = item_losses(x, y, CANCER, Recipe(loss="focal", positive_weight=weight, focal_gamma=2))
    p = torch.where(y[:, 0] == 1, x.sigmoid(), 1 - x.sigmoid())
    torch.testing.assert_close(turned, focal * (1 - p) ** 2)


def test_a_soft_label_is_least_at_its_own_probability():
    "And a negative stays one."
    x = torch.tensor([math.log(.9 / .1)], requires_grad=True)
    recipe = Recipe(positive_label=.9, positive_weight=1)
    item_losses(x, torch.ones(1, 1), CANCER, recipe).sum().backward()
    assert abs(float(x.grad)) < 1e-6
    assert item_losses(x, torch.zeros(1, 1), CANCER, recipe).item() == pytest.approx(-math.log(.1), rel=1e-5)


@pytest.fixture
def table():
    "As pandas reads a train.csv with gaps."
    return pd.DataFrame({"cancer": [1, 0, 0, 0, 0], "biopsy": [1, 0, 1, 0, 0], "BIRADS": [0, 2, np.nan, 1, np.nan],
                         "difficult_negative_case": [False, True, np.nan, False, False], "nothing": [np.nan] * 5,
                         "density": ["A", "", np.nan, "C", "D"], "site": [1, 2, 2, 1, 1], "text": list("abcde"),
                         "age": [40, 50, np.nan, 60, 70.5]})


def test_targets_follow_from_the_values(table):
    more = pd.concat([table, table.assign(age=[41, 51, 52, 61, 71])])
    columns = "biopsy", "BIRADS", "difficult_negative_case", "density", "site", "age"
    found = targets(more, Recipe(auxiliary=dict.fromkeys(columns, .5)))
    assert [t.outputs for t in found] == [
        ("cancer",), ("biopsy",), ("BIRADS=0", "BIRADS=1", "BIRADS=2"), ("difficult_negative_case",),
        ("density=A", "density=C", "density=D"), ("site=1", "site=2"), ("age",)]
    by_name = {t.column: t.labels(table) for t in found}
    np.testing.assert_array_equal(by_name["BIRADS"], [[1, 0, 0], [0, 0, 1], [np.nan] * 3, [0, 1, 0], [np.nan] * 3])
    np.testing.assert_array_equal(by_name["difficult_negative_case"][:, 0], [0, 1, np.nan, 0, 0])
    np.testing.assert_array_equal(by_name["density"][1:3], np.full((2, 3), np.nan))
    ages = more["age"].dropna()
    np.testing.assert_allclose(by_name["age"][0, 0], (40 - ages.mean()) / ages.std(), rtol=1e-5)
    assert all(v.dtype == np.float32 for v in by_name.values())


@pytest.mark.parametrize(("column", "message"), [
    ("nothing", "all 5 training images lack it"), ("colour", "expected a column of train.csv, such as biopsy, BIRADS")])
def test_columns_that_teach_nothing_are_refused(column, message, table):
    with pytest.raises(ValueError, match=message): targets(table, Recipe(auxiliary={column: 1}))


def test_too_many_kinds_are_refused(table):
    many = pd.DataFrame({"cancer": 0, "name": [f"p{i}" for i in range(60)]})
    with pytest.raises(ValueError, match="60 kinds are too many"): targets(many, Recipe(auxiliary={"name": 1}))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_missing_label_moves_nothing(seed):
    "Neither the loss nor any gradient, whatever the logits are."
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"cancer": [0, 1, 0, 1], "density": ["A", "B", None, None], "age": [40., np.nan, 61, np.nan],
                          "biopsy": [1, np.nan, 0, np.nan]})
    learnt = targets(pd.concat([frame, pd.DataFrame({"age": [1., 2, 3, 4, 5]})]),
                     Recipe(auxiliary={"density": .3, "age": .2, "biopsy": .1}))
    y = torch.tensor(np.concatenate([t.labels(frame) for t in learnt], 1))
    x = torch.tensor(rng.normal(0, 20, y.shape), dtype=torch.float32, requires_grad=True)
    given = item_losses(x, y, learnt, Recipe())
    given.sum().backward()
    assert given.isfinite().all()
    assert (x.grad[~y.isfinite()] == 0).all()
    assert (x.grad[3, 1:] == 0).all()
    torch.testing.assert_close(given[3:], item_losses(x[3:, :1], y[3:, :1], CANCER, Recipe()))


def test_what_pushes_a_class_up_lowers_its_loss(table):
    learnt = targets(table, Recipe(auxiliary={"density": 1}))
    y = torch.tensor(np.concatenate([t.labels(table) for t in learnt], 1))[:1]  # density A
    low, high = (item_losses(torch.tensor([[0., a, 0, 0]]), y, learnt, Recipe()) for a in (0, 5))
    assert high < low


@pytest.mark.parametrize("place", ["datasets/someone/backbones", "backbones", "datasets/someone/backbones/deep/er"])
def test_weights_are_found_among_the_inputs(place, tmp_path, monkeypatch):
    "In both layouts of Kaggle's inputs; a path that is one goes before."
    monkeypatch.chdir(tmp_path)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "w.safetensors").write_bytes(b"")
    assert find_weights("somewhere/else/w.safetensors", tmp_path) == tmp_path / place / "w.safetensors"
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert find_weights("w.safetensors", tmp_path).samefile("w.safetensors")
    with pytest.raises(ValueError, match=r"weights v.pth: no such file.*timm.create_model\('v', pretrained=True\)"):
        find_weights("v.pth", tmp_path)
