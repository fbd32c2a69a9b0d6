"""The shapes that a run's latents lead to, in a file with a slider for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spectral_jax.basis import spectral
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry import gltf
from spectral_jax.network import principal
from spectral_jax.runs.opened import OpenedRun, encode_some

DIRECTIONS = 10
DEVIATIONS = 2  # how far along a direction a shape is, in standard deviations


def write(path: str | Path, opened: OpenedRun, count: int | None = None, progress: Progress = SILENT) -> int:
    """Write the mesh of the mean latent, with two sliders for each of `count` directions of the latents, as .glb.

    The directions are the leading principal ones of the latents of the train split, or of 4,096 of its meshes. The
    sliders of the first are named "direction 1 +" and "direction 1 -", and lead to the meshes two standard deviations
    away: two sliders, since a decoder is not linear. Returns the number of directions, by default 10, or all where
    there are fewer. Raises ValueError for fewer than 1 or more than there are.
    """
    encoded = encode_some(opened, progress=progress).latents
    mean, directions, deviations = principal.fit(encoded, encoded.shape[1])
    count = min(DIRECTIONS, len(directions)) if count is None else count
    if not 1 <= count <= len(directions):
        raise ValueError(f"{path}: {count} directions asked for, the train latents have {len(directions)}")
    steps = DEVIATIONS * deviations[:count, None] * directions[:count]
    moved = np.stack([mean + steps, mean - steps], axis=1).reshape(2 * count, -1)
    names = [f"direction {i} {sign}" for i in range(1, count + 1) for sign in "+-"]
    base, *shapes = spectral.with_unused(opened.basis, opened.codec.decode_vertices([mean, *moved]))[0]
    faces = spectral.with_unused(opened.basis, base)[1]
    gltf.write_shapes(path, base, faces, dict(zip(names, shapes, strict=True)))
    return count
