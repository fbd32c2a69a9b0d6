"""The colours of errors, the same in every picture: grey for no error, then yellow, orange and dark red."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

STOPS = (0.0, 0.35, 0.7, 1.0)  # positions of COLOURS in the range of errors; the report's style sheet repeats them
COLOURS = np.array([[188, 197, 209], [240, 189, 74], [221, 90, 43], [125, 20, 54]]) / 255


def error_colours(
    errors_mm: Float[np.ndarray, "*shape"], low_mm: float, high_mm: float
) -> Float[np.ndarray, "*shape 3"]:
    """Colours (sRGB, 0 to 1) of errors. Errors outside the range get the colour of its nearer end."""
    steps = low_mm + (high_mm - low_mm) * np.array(STOPS)
    return np.stack([np.interp(errors_mm, steps, channel) for channel in COLOURS.T], axis=-1)
