"""Regions of a body, by the joints that move its vertices."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Int

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.bodies import smplh as bodies
from spectral_jax.geometry import mesh

REGIONS = {  # joints of SMPL-H
    "head": (12, 15),
    "trunk": (0, 3, 6, 9, 13, 14),
    "upper arms": (16, 17),
    "forearms": (18, 19),
    "hands": (*range(20, 52),),
    "thighs": (1, 2),
    "lower legs": (4, 5),
    "feet": (7, 8, 10, 11),
}


def body_regions(basis: SpectralBasis, source: dict[str, Any]) -> Int[np.ndarray, "vertex"] | None:
    """The region (index into REGIONS) of each vertex, or None if the mesh is not a body with known joints.

    Known are the demo bodies, and the bodies that a dataset was built with, as long as they exist where its `source`
    says.
    """
    paths = [bodies.demo_body_path(basis.num_vertices)] if basis.num_vertices in bodies.DEMO_SIZES else []
    if source.get("recipe") in ("amass", "dfaust") and isinstance(folder := source.get("body_folder"), str):
        with suppress(ValueError, OSError):  # moved or deleted since
            paths += bodies.find_bodies(folder).values()
    region_of = {joint: region for region, joints in enumerate(REGIONS.values()) for joint in joints}
    for path in paths:
        with suppress(ValueError, OSError):
            body = bodies.load_body(path)
            if mesh.fingerprint(body.faces, body.num_vertices) == basis.fingerprint:
                joints = np.asarray(body.model.skin_weights).argmax(axis=1)
                return np.array([region_of[joint] for joint in joints.tolist()])
    return None
