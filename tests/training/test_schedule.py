import numpy as np
import pytest
from helpers import TINY

from spectral_jax.training.schedule import Plateau, cosine, step_plateau

TRACE = TINY / "lr_trace.txt"


def test_learning_rates_of_the_published_system_are_reproduced():
    """32 epochs of PyTorch Lightning: learning rate used in each, and the validation error known in it."""
    lines = [line.split() for line in TRACE.read_text().splitlines()]
    known = [None if error == "None" else float(error) for _, _, error in lines]
    plateau = Plateau(1e-4)
    for epoch, (_, rate, _) in enumerate(lines):
        assert plateau.learning_rate == float(rate)
        ends_with = known[epoch + 1] if epoch + 1 < len(lines) else None  # validation closes its epoch
        if ends_with is not None:
            plateau = step_plateau(plateau, ends_with)


def test_rate_falls_twice_in_ten_epochs_even_while_the_error_improves():
    plateau, rates = Plateau(1e-4), []
    for epoch in range(60):
        rates.append(plateau.learning_rate)
        if epoch >= 9:
            plateau = step_plateau(plateau, 1000.0 - (epoch + 1) // 10)
    assert rates[13] == 1e-4
    assert rates[14] == rates[17] == pytest.approx(9.9e-5)
    assert rates[18] == rates[23] == pytest.approx(9.801e-5)
    assert rates[28] == pytest.approx(9.60596e-5)
    assert rates[59] == pytest.approx(1e-4 * 0.99**10)


def test_fourth_bad_epoch_reduces_and_an_improvement_resets():
    plateau = step_plateau(Plateau(1.0), 10.0)
    for metric in (10.0, 9.9995, 10.0):  # less than 1e-4 better is no improvement
        plateau = step_plateau(plateau, metric)
    assert plateau == Plateau(1.0, 10.0, 3)
    assert step_plateau(plateau, 9.9) == Plateau(1.0, 9.9, 0)
    assert step_plateau(plateau, 10.0) == Plateau(0.99, 10.0, 0)


def test_rate_freezes_where_a_reduction_would_be_below_eps():
    plateau = Plateau(1e-4, best=1.0)
    for _ in range(4 * 2000):
        plateau = step_plateau(plateau, 1.0)
    assert 9.8e-7 < plateau.learning_rate < 1e-6
    assert plateau.learning_rate * 0.01 <= 1e-8


def test_cosine_warms_up_peaks_and_ends_near_zero():
    rates = np.concatenate([cosine(1e-3, first, 50, 4000) for first in range(0, 4000, 50)])
    assert 0 < rates[0] < 1e-5
    assert np.argmax(rates) == 199
    assert rates.max() == pytest.approx(1e-3)
    assert (np.diff(rates[199:]) <= 0).all()
    assert rates[-1] < 1e-9
    assert cosine(1e-3, 0, 4, 4).max() == pytest.approx(1e-3, rel=0.2)
