"""The colours of errors: one scale for every picture, even to the eye and in grey."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# red, green, blue from no error to the most: near black, violet, red, orange, pale yellow; lightness grows evenly
ANCHORS = np.array(
    [[20, 18, 52], [74, 32, 108], [135, 44, 112], [194, 62, 92], [236, 103, 68], [249, 163, 76], [250, 228, 142]]
)


def error_colours(errors_mm: Float[np.ndarray, "*shape"], most_mm: float) -> Float[np.ndarray, "*shape 3"]:
    """Colours in 0 to 1 of errors from 0 to `most_mm`; larger ones have the last colour."""
    place = np.clip(errors_mm / most_mm, 0, 1) * (len(ANCHORS) - 1)
    steps = np.arange(len(ANCHORS))
    return np.stack([np.interp(place, steps, channel / 255) for channel in ANCHORS.T], axis=-1)
