"What holds for every submission: pF1 against its definition, the best threshold against brute force, any order."
import json
import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from mammo_kit.metrics import (
    Decision,
    aggregate,
    auroc,
    average_precision,
    best_threshold,
    choose_decision,
    pf1,
    pf1_floor,
    quantile_threshold,
    scores,
)

# Few distinct values make ties, which is where a threshold goes wrong; the others come as close as floats can.
probability = st.one_of(st.sampled_from([0., .25, .5, 1.]), st.floats(0, 1), st.floats(0, 1, width=16))
rows = st.lists(st.tuples(st.integers(0, 1), probability), min_size=1, max_size=40)
rows_with_positive = rows.filter(lambda r: any(y for y, _ in r))


def columns(rows):
    y, p = zip(*rows, strict=True)
    return np.array(y), np.array(p)


def defined(labels, probabilities):
    "pF1 as the competition states it: precision, recall and their harmonic mean, in plain Python."
    p = [min(max(x, 0), 1) for x in probabilities]
    ctp = sum(x for x, y in zip(p, labels, strict=True) if y == 1)
    cfp = sum(x for x, y in zip(p, labels, strict=True) if y == 0)
    if not ctp or not any(labels):
        return 0
    precision, recall = ctp / (ctp + cfp), ctp / sum(labels)
    return 2 * precision * recall / (precision + recall) if precision and recall else 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-2, 3)), min_size=1, max_size=40))
def test_pf1_is_the_definition(rows):
    y, p = columns(rows)
    assert math.isclose(pf1(y, p), defined(y, p), rel_tol=1e-12, abs_tol=1e-100)  # the long way underflows sooner


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_pf1_of_flags_is_f1(rows):
    y, flagged = columns(rows)
    assert math.isclose(pf1(y, flagged), f1_score(y, flagged, zero_division=0), abs_tol=1e-15)


@settings(deadline=None)
@given(rows)
def test_floor_is_the_formula(rows):
    y, _ = columns(rows)
    assert math.isclose(pf1_floor(y), 2 * y.mean() / (1 + y.mean()), abs_tol=1e-15)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-1e300, 1e300)), min_size=1, max_size=20))
def test_clipping_keeps_the_order_and_the_score(rows):
    y, p = columns(rows)
    clipped = Decision().apply(p)
    assert (np.diff(clipped[np.argsort(p, kind='stable')]) >= 0).all()
    assert 0 <= clipped.min() and clipped.max() <= 1
    assert pf1(y, p) == pf1(y, clipped)


@settings(deadline=None)
@given(rows_with_positive)
@example([(1, np.nextafter(.5, 1)), (0, .5)])  # neighbouring floats: their midpoint is one of them
@example([(0, 5e-324), (1, 5e-324)])
@example([(1, 0.), (0, 0.)])
def test_best_threshold_against_brute_force(rows):
    y, p = columns(rows)
    threshold, best = best_threshold(y, p)
    assert 0 <= threshold <= 1
    f1 = {t: f1_score(y, p >= t, zero_division=0) for t in set(p)}
    assert math.isclose(best, max(f1.values()), abs_tol=1e-15)
    assert best == pf1(y, p >= threshold) == pf1(y, choose_decision(y, p).apply(p))
    higher = [t for t in f1 if t > threshold and math.isclose(f1[t], best, abs_tol=1e-15)]
    assert len({(p >= t).sum() for t in higher} - {(p >= threshold).sum()}) == 0  # of equals, the fewest alarms


@settings(deadline=None)
@given(rows_with_positive, st.randoms(use_true_random=False))
def test_best_threshold_ignores_the_order(rows, random):
    shuffled = random.sample(rows, len(rows))
    assert best_threshold(*columns(rows)) == best_threshold(*columns(shuffled))


@settings(deadline=None)
@given(st.lists(probability, min_size=1, max_size=60), st.floats(.001, .999))
def test_quantile_flags_about_the_prevalence(p, prevalence):
    flagged = (np.array(p) >= quantile_threshold(p, prevalence)).sum()
    assert flagged >= max(1, math.floor(prevalence * (len(p) - 1)))
    if len(set(p)) == len(p):
        assert flagged <= prevalence * (len(p) - 1) + 1 + 1e-9


@settings(deadline=None)
@given(rows_with_positive, st.sampled_from(['none', 'threshold', 'quantile']))
def test_a_decision_survives_json(rows, kind):
    y, p = columns(rows)
    if kind == 'quantile' and y.all():
        return
    decision = choose_decision(y, p, kind)
    again = Decision(**json.loads(json.dumps(asdict(decision))))
    assert again == decision
    np.testing.assert_array_equal(again.apply(p), decision.apply(p))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from('abc'), st.floats(0, 1)), min_size=1, max_size=30),
       st.sampled_from(['mean', 'max']), st.randoms(use_true_random=False))
def test_aggregation_ignores_the_order(rows, how, random):
    frame = pd.DataFrame(rows, columns=['prediction_id', 'probability'])
    shuffled = pd.DataFrame(random.sample(rows, len(rows)), columns=frame.columns)
    one, other = aggregate(frame, how=how), aggregate(shuffled, how=how)
    pd.testing.assert_series_equal(one, other, check_exact=True)
    for breast, value in one.items():
        inside = [p for name, p in rows if name == breast]
        assert math.isclose(value, max(inside) if how == 'max' else sum(inside) / len(inside), abs_tol=1e-12)


def test_one_class_only():
    assert math.isnan(auroc([1, 1], [.2, .3])) and math.isnan(average_precision([0, 0], [.2, .3]))
    assert scores([0, 0], [.2, .3])['pf1_binarised'] == 0
    with pytest.raises(ValueError, match='none of 2 labels is positive'):
        best_threshold([0, 0], [.2, .3])


@pytest.mark.parametrize('labels, p, said', [
    ([1, 0], [.1, math.nan], 'position 1 is nan'), ([1, 0], [math.inf, 0], 'position 0 is inf'),
    ([1, 0], [.1], 'one label for each'), ([1, .5], [.1, .2], 'position 1 is 0.5'),
    ([1, math.nan], [.1, .2], 'position 1 is nan'), ([], [], 'shape'), ([[1, 0]], [[.1, .2]], 'shape'),
])
@pytest.mark.parametrize('metric', [pf1, auroc, average_precision, best_threshold, scores])
def test_bad_input_says_where(metric, labels, p, said):
    with pytest.raises(ValueError, match=said):
        metric(labels, p)


def test_series_bools_and_float32_are_fine():
    y, p = pd.Series([True, False, True], index=[5, 3, 9]), np.array([.9, .1, .8], np.float32)
    assert pf1(y, p) == pf1([1, 0, 1], p.tolist()) and best_threshold(y, p)[1] == 1
