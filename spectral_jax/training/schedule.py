"""The learning rate: the plateau rule of the published system, and a cosine for short runs of known length."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import optax
from jaxtyping import Float

WARMUP_STEPS = 200
FACTOR, PATIENCE, THRESHOLD, EPS = 0.99, 3, 1e-4, 1e-8


class Plateau(NamedTuple):
    """What the plateau rule remembers between epochs, in float64 as PyTorch does."""

    learning_rate: float
    best: float = math.inf
    bad_epochs: int = 0


def step_plateau(plateau: Plateau, metric: float) -> Plateau:
    """The rule after one epoch that ends with validation error `metric` (PyTorch's ReduceLROnPlateau, mode min).

    Patience 3 tolerates three epochs without a relative improvement of 1e-4 and reduces at the fourth; a reduction
    smaller than 1e-8 is skipped, which freezes the rate near 9.9e-7. The published system calls it after EVERY epoch
    with the last known error, stale between validations, and not at all before the first one.
    """
    improved = metric < plateau.best * (1 - THRESHOLD)
    best = metric if improved else plateau.best
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
