"""The learning rate: the plateau rule of the published system, and a cosine for short runs of known length."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Float

from spectral_jax.training.config import TrainConfig

# Adam's mean of squared gradients is unreliable in its first steps, so the cosine schedule starts small. 200 steps are
# ten times the memory of beta2 = 0.95, which short runs use. Runs below 2,000 steps warm up for a tenth of their steps.
WARMUP_STEPS = 200
MAX_EPOCHS_AHEAD = 16  # whose rates are computed at once: the longest dispatch

# The arguments of PyTorch's ReduceLROnPlateau in the published system.
FACTOR = 0.99
PATIENCE = 3
THRESHOLD = 1e-4
EPS = 1e-8


class Plateau(NamedTuple):
    """What the plateau rule remembers between epochs, in float64 as PyTorch does."""

    learning_rate: float
    best: float = math.inf
    bad_epochs: int = 0


def step_plateau(plateau: Plateau, validation_mm: float | None) -> Plateau:
    """Apply the rule at the end of an epoch (PyTorch's ReduceLROnPlateau, mode min).

    Patience 3 tolerates three epochs without a relative improvement of 1e-4 and reduces at the fourth. A reduction
    smaller than 1e-8 is skipped, which freezes the rate near 9.9e-7. The published system applies the rule after EVERY
    epoch, between validations with the last known error. Before the first validation (None) nothing changes.
    """
    # Not optax.contrib.reduce_on_plateau: it works in float32, takes an error at every step as part of the gradient
    # transformation, and has no EPS. The rates would differ from PyTorch's after the first reduction.
    if validation_mm is None:
        return plateau
    improved = validation_mm < plateau.best * (1 - THRESHOLD)
    best = validation_mm if improved else plateau.best
    bad_epochs = 0 if improved else plateau.bad_epochs + 1
    if bad_epochs <= PATIENCE:
        return Plateau(plateau.learning_rate, best, bad_epochs)
    reduced = plateau.learning_rate * FACTOR
    return Plateau(reduced if plateau.learning_rate - reduced > EPS else plateau.learning_rate, best, 0)


def cosine(peak: float, first: int, count: int, total: int) -> Float[np.ndarray, "count"]:
    """Learning rates of `count` steps from step `first` of `total`: a linear warm-up, then a cosine to zero."""
    warmup = min(WARMUP_STEPS, total // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total)
    return np.asarray(schedule(np.arange(first + 1, first + count + 1)), np.float32)


def learning_rates(
    config: TrainConfig, plateau: Plateau, validation_mm: float | None, epoch: int, steps: int
) -> Float[np.ndarray, "epoch step"]:
    """Learning rates of the steps of `epoch` and the following ones, as far as they are known without a validation.

    `validation_mm` is the last known error; an epoch has `steps` steps.
    """
    count = min(MAX_EPOCHS_AHEAD, config.validate_every)
    if config.schedule == "cosine":
        return cosine(config.learning_rate, epoch * steps, count * steps, config.epochs * steps).reshape(count, steps)
    rates = np.empty((count, steps), np.float32)
    for row in rates:
        row[:] = plateau.learning_rate
        plateau = step_plateau(plateau, validation_mm)
    return rates
