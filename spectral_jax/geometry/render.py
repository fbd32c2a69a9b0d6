"""Draw meshes without a display or a GPU: flat shading, painter's algorithm."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int, UInt8

from spectral_jax import extras

LIGHT = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])
GREY = (0.72, 0.74, 0.78)
SMOOTH = 2  # supersampling: pixels drawn for each pixel of the image, in each direction


def window(vertices: Float[np.ndarray, "*mesh vertex 3"], turn: float = 25.0) -> tuple[float, float, float]:
    """Centre (x, y) and half the side, in metres, of a square that shows all meshes with a small margin."""
    seen = (vertices @ _rotation(turn))[..., :2].reshape(-1, 2)
    low, high = seen.min(axis=0), seen.max(axis=0)
    x, y = (low + high) / 2
    return float(x), float(y), float((high - low).max() / 2 * 1.08) or 1.0


def draw(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    view: tuple[float, float, float],
    size: int = 320,
    turn: float = 25.0,
    colours: Float[np.ndarray, "face 3"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a mesh (y up) seen from the front as an image of `size` pixels squared.

    `view` is a `window`; `turn` rotates the mesh about y, in degrees; `colours` are from 0 to 1. Raises ValueError
    where Pillow is missing.
    """
    image_module, draw_module = _pillow("Image"), _pillow("ImageDraw")
    corners = (vertices @ _rotation(turn))[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    shade = 0.35 + 0.65 * np.clip(normals @ LIGHT, 0, 1)
    paint = np.clip((np.array([GREY]) if colours is None else colours) * shade[:, None], 0, 1)
    middle = np.array(view[:2])
    points = ((corners[..., :2] - middle) * (1, -1) / view[2] + 1) * (SMOOTH * size / 2)
    facing = np.flatnonzero(normals[:, 2] > 0)
    order = facing[np.argsort(corners[facing, :, 2].mean(axis=1))]
    image = image_module.new("RGB", (SMOOTH * size,) * 2, "white")
    canvas, inks = draw_module.Draw(image), (255 * paint).astype(int).tolist()
    for face, triangle in zip(order.tolist(), points[order].reshape(-1, 6).tolist(), strict=True):
        canvas.polygon(triangle, fill=tuple(inks[face]))
    return np.asarray(image.resize((size, size), image_module.Resampling.BOX))


def write_gif(path: str | Path, frames: list[UInt8[np.ndarray, "height width 3"]], seconds: float = 3.0) -> None:
    """Write images as a looping .gif, forwards in `seconds` and back. Raises ValueError without Pillow."""
    image_module = _pillow("Image")
    images = [image_module.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    duration = max(20, round(1000 * seconds / max(1, len(frames) - 1)))
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def available() -> bool:
    """Whether Pillow, which drawing needs, is installed."""
    return importlib.util.find_spec("PIL") is not None


def _rotation(turn: float) -> np.ndarray:
    """The rotation about y by degrees, as a matrix to multiply rows of points with from the right."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T


def _pillow(name: str) -> ModuleType:
    return extras.require(f"PIL.{name}", "pictures", "a picture")
