import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vr_core.audio.metrics import LIMIT_DB, Score, mean_db

few = settings(deadline=None, max_examples=25)


def example_pair(seed: int, noise: float, samples: int = 500) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    reference = random.standard_normal((2, samples)) * [[1.0], [0.3]] + 0.2
    return reference, 0.8 * reference + noise * random.standard_normal((2, samples))


def score(reference: np.ndarray, estimate: np.ndarray, cuts: tuple[int, ...] = ()) -> Score:
    result = Score()
    for r, e in zip(np.split(reference, cuts, axis=1), np.split(estimate, cuts, axis=1), strict=True):
        result.update(r, e)
    return result


def naive_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    signal = error = 0.0
    for r, e in zip(reference.ravel().tolist(), estimate.ravel().tolist(), strict=True):
        signal += r * r
        error += (r - e) ** 2
    return 10 * math.log10(signal / error)


def naive_si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """By projection: the part of the estimate along the reference, found by least squares, against the rest."""
    r, e = reference.ravel(), estimate.ravel()
    scale = np.linalg.lstsq(r[:, None], e, rcond=None)[0][0]
    return float(20 * np.log10(np.linalg.norm(scale * r) / np.linalg.norm(e - scale * r)))


@few
@given(st.integers(0, 10**6), st.floats(1e-3, 10))
def test_scores_equal_the_naive_formulas(seed: int, noise: float) -> None:
    reference, estimate = example_pair(seed, noise)
    got = score(reference, estimate)
    assert got.sdr_db() == pytest.approx(naive_sdr(reference, estimate), abs=1e-8)
    assert got.si_sdr_db() == pytest.approx(naive_si_sdr(reference, estimate), abs=1e-6)


@few
@given(st.integers(0, 10**6), st.lists(st.integers(0, 500), max_size=6).map(lambda cuts: tuple(sorted(cuts))))
def test_blocks_may_be_cut_anywhere(seed: int, cuts: tuple[int, ...]) -> None:
    reference, estimate = example_pair(seed, 0.3)
    whole, cut = score(reference, estimate), score(reference, estimate, cuts)
    assert cut.samples == 500
    assert cut.reference_db() == pytest.approx(10 * math.log10((reference**2).mean()), abs=1e-9)
    assert cut.sdr_db() == pytest.approx(whole.sdr_db(), abs=1e-9)
    assert cut.si_sdr_db() == pytest.approx(whole.si_sdr_db(), abs=1e-9)


@few
@given(st.integers(0, 10**6), st.floats(1e-4, 1e4))
def test_scale_and_order(seed: int, scale: float) -> None:
    reference, estimate = example_pair(seed, 0.3)
    first = score(reference, estimate)
    both = score(scale * reference, scale * estimate)
    assert both.sdr_db() == pytest.approx(first.sdr_db(), abs=1e-7)
    alone = score(reference, scale * estimate)
    assert alone.si_sdr_db() == pytest.approx(first.si_sdr_db(), abs=1e-6)
    order = np.random.default_rng(seed).permutation(500)
    mixed = score(reference[::-1, order], estimate[::-1, order])
    assert mixed.sdr_db() == pytest.approx(first.sdr_db(), abs=1e-9)
    assert mixed.si_sdr_db() == pytest.approx(first.si_sdr_db(), abs=1e-9)


def test_known_values() -> None:
    reference = np.array([[3.0, 0.0], [0.0, 4.0]])
    assert score(reference, 0.9 * reference).sdr_db() == pytest.approx(20.0)
    # Global, not the mean over channels: one perfect channel does not hide what the other lacks.
    assert score(reference, np.array([[3.0, 0.0], [0.0, 0.0]])).sdr_db() == pytest.approx(10 * math.log10(25 / 16))
    assert score(reference, np.zeros_like(reference)).sdr_db() == pytest.approx(0.0)


def test_float32_signals_are_summed_in_float64() -> None:
    reference = np.full((2, 200_000), 0.1, np.float32)
    estimate = reference * np.float32(1 - 1e-5)
    exact = naive_sdr(reference.astype(np.float64), estimate.astype(np.float64))
    assert score(reference, estimate).sdr_db() == pytest.approx(exact, abs=1e-6)


def test_silence_and_exactness_follow_the_stated_rule() -> None:
    signal, silence = np.ones((2, 4)), np.zeros((2, 4))
    assert score(silence, signal).sdr_db() is None
    assert score(silence, silence).si_sdr_db() is None
    assert Score().sdr_db() is None
    assert score(signal, signal).sdr_db() == LIMIT_DB
    assert score(signal, 3 * signal).si_sdr_db() == LIMIT_DB
    assert score(signal, silence).si_sdr_db() == -LIMIT_DB
    assert score(signal, np.array([[1.0, -1, 1, -1]] * 2)).si_sdr_db() == -LIMIT_DB


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="same shape"):
        Score().update(np.zeros((2, 3)), np.zeros((1, 3)))


def test_mean_leaves_out_what_has_no_score() -> None:
    assert mean_db([1.0, None, 4.0]) == 2.5
    assert mean_db([None]) is None
