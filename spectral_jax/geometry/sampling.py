"""Evenly spaced samples of a long sequence."""

from __future__ import annotations

import numpy as np


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` distinct indices, spread evenly over 0 to `count` - 1, both ends included."""
    return np.unique(np.linspace(0, count - 1, most).astype(int)).tolist()
