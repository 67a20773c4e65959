"""The rules of the picture: the table in benchmarks/README.md is what they do, and no picture makes them fail."""
import importlib
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mammo_kit.artifacts import ARTIFACT_RULES, artifact_scores, check_artifacts
from mammo_kit.breast import find_breast
from mammo_kit.faults import ARTIFACTS, draw_artifact, healthy

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def small(p) -> np.ndarray:
    return cv2.resize(255 * p.pixels, (208, 256), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def benchmark():
    "The module benchmarks/artifacts.py; its processes import it, too."
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("artifacts")
    sys.path.remove(str(BENCHMARKS))


def published() -> dict[str, list[tuple[int, int] | None]]:
    "Per rule the counts (k, n) in the table of benchmarks/README.md: phantoms, films, healthy, untouched."
    table = {}
    for line in (BENCHMARKS / "README.md").read_text().splitlines():
        if rule := re.match(r"\| `(\w+)` \| \d+/", line):
            table[rule[1]] = [tuple(map(int, re.match(r"(\d+)/(\d+)", cell.strip()).groups()))
                              for cell in line.split("|")[2:6]]
    return table


def test_the_table_in_the_benchmarks_is_what_the_rules_do(benchmark):
    real, table = (benchmark.SHARED / "mias").is_dir(), published()
    made = benchmark.counts(benchmark.measure(real))
    assert table.keys() == made.keys() == ARTIFACTS.keys()
    for rule, count in made.items():
        for where, (k, n) in zip(("phantom", "film", "healthy", "untouched"), table[rule], strict=True):
            if real or where in ("phantom", "healthy"):  # another processor may round a picture at the limit otherwise
                assert count[f"{where} n"] == n and abs(count[where] - k) <= 1, (rule, where, count[where], k)


@pytest.mark.parametrize("rule", ARTIFACTS)
def test_no_phantom_recall_below_nine_in_ten_nor_false_alarms_above_one_in_fifty(rule):
    (found, drawn), _, (fired, seen), _ = published()[rule]
    assert drawn >= 120 and seen >= 300 and found >= .9 * drawn and fired <= .02 * seen


def test_wilson_bounds_by_hand(benchmark):
    low, high = benchmark.wilson(0, 300)  # z**2 / (n + z**2) at zero: 3.8416 / 303.8416
    assert low == 0 and high == pytest.approx(.012643, abs=1e-5)
    low, high = benchmark.wilson(8, 10)   # Wikipedia's interval for 80 % of 10
    assert (low, high) == (pytest.approx(.4902, abs=1e-3), pytest.approx(.9433, abs=1e-3))


@pytest.mark.parametrize("rule", ["implant", "nipple_marker", "stripes", "burned_in_label", "artificial_border"])
def test_the_box_lies_where_the_artifact_was_drawn(rule):
    for seed in range(4):
        drawn, box = draw_artifact(healthy("plain", seed, "CC"), rule, .8, seed)
        grey, (h, w) = small(drawn), drawn.pixels.shape
        score, found = artifact_scores(grey, find_breast(grey))[rule]
        if not ARTIFACT_RULES[rule].fires(score): continue
        top, left, bottom, right = (x / n for x, n in zip(box, (h, w, h, w)))
        assert found[0] < bottom + .03 and found[2] > top - .03 and found[1] < right + .03 and found[3] > left - .03


def test_a_picture_and_its_mirror_image_have_the_same_scores():
    drawn, _ = draw_artifact(healthy("plain", 3, "MLO"), "implant", .7, 3)
    grey = small(drawn)
    one, other = (artifact_scores(g, find_breast(g)) for g in (grey, np.ascontiguousarray(grey[:, ::-1])))
    for rule, (score, box) in one.items():
        assert other[rule][0] == pytest.approx(score, rel=.2, abs=1), rule
        if box and ARTIFACT_RULES[rule].fires(score):
            assert other[rule][1][1] == pytest.approx(1 - box[3], abs=.03)


def test_reasons_tell_score_unit_and_limit():
    grey = small(draw_artifact(healthy("plain", 1), "high_background", 1)[0])
    alarm = next(a for a in check_artifacts(grey, find_breast(grey)) if a.rule == "high_background")
    assert "% of white; the limit is 13" in alarm.reason and alarm.score > 13


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(st.sampled_from([np.uint8, np.uint16, np.float32]),
                  st.tuples(st.integers(1, 90), st.integers(1, 90)),
                  elements={"min_value": 0, "max_value": 255}, fill=st.just(0)))
def test_any_picture_has_finite_scores_and_boxes_inside(grey):
    for score, box in artifact_scores(grey, find_breast(grey)).values():
        assert np.isfinite(score)
        assert box is None or 0 <= box[0] <= box[2] <= 1 and 0 <= box[1] <= box[3] <= 1


@pytest.mark.parametrize("shape", [(256, 208), (400, 40), (40, 400), (700, 500)])
@pytest.mark.parametrize("make", [np.zeros, np.ones, lambda s: np.random.default_rng(0).random(s),
                                  lambda s: np.tile(np.linspace(0, 1, s[1]), (s[0], 1)),
                                  lambda s: np.indices(s).sum(0) % 2])
def test_odd_pictures(shape, make):
    grey = np.float32(255 * make(shape))
    scores = artifact_scores(grey, find_breast(grey))
    assert all(np.isfinite(score) for score, _ in scores.values())
