"""Arrays as text for the page's scripts: base64, with as few bytes as the page needs."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

BYTES_AS_TEXT = 4 / 3  # characters of base64 for a byte


def as_text(array: Shaped[np.ndarray, "..."]) -> str:
    """The bytes of an array, rows first, in base64."""
    return base64.b64encode(array.tobytes()).decode()


def coordinates(array: Float[np.ndarray, "..."]) -> dict[str, Any]:
    """Numbers as 16-bit multiples of one step, which is about 0.03 mm for the coordinates of a body."""
    step = float(np.abs(array).max()) / 32767 or 1.0
    return {"step": step, "bytes": as_text(np.rint(array / step).astype("<i2"))}


def faces(array: Int[np.ndarray, "face 3"]) -> dict[str, Any]:
    """Vertex indices of faces, first those of all first corners."""
    kind = "u2" if array.max() < 1 << 16 else "u4"
    return {"kind": kind, "bytes": as_text(array.T.astype(f"<{kind}"))}


def floats(array: Float[np.ndarray, "..."]) -> str:
    """Numbers in float32."""
    return as_text(array.astype("<f4"))


def weights(array: Float[np.ndarray, "*rows column"]) -> dict[str, Any]:
    """Numbers as 16-bit multiples of a step for each column.

    Twice as small as float32, and within 1/65,534 of the largest number of the column, where float16 is within 1/2,048
    of each number.
    """
    array = np.asarray(array, np.float32)
    steps = np.abs(array).max(axis=tuple(range(array.ndim - 1))) / np.float32(32767)
    steps = np.where(steps > 0, steps, 1).astype("<f4")
    rounded = np.rint(array / steps).clip(-32767, 32767).astype("<i2")
    return {"shape": list(array.shape), "steps": as_text(steps), "values": as_text(rounded)}


def weight_bytes(array: Float[np.ndarray, "*rows column"]) -> int:
    """Bytes of what `weights` returns, before they are text."""
    return 2 * array.size + 4 * array.shape[-1]
