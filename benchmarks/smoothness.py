"""Compare weights of the Laplacian loss on the test split: errors of positions, edges and normals.

    python benchmarks/smoothness.py                       # the demo dataset, both networks
    python benchmarks/smoothness.py --network residual --weights 0 10 100

SAE-LP is trained by the demo's recipe, the residual network by its own with --mirror. The error in mm is the mean
distance to the original vertices; that of an edge the length of the difference between its vector and the original
one; that of a normal the angle between the face's normal and the original one.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import announce, save, table

from spectral_jax.basis import spectral
from spectral_jax.commands.train import DEMO_TRAINING
from spectral_jax.data.coefficients import LazySplit
from spectral_jax.data.dataset import Data
from spectral_jax.data.open import open_data
from spectral_jax.geometry import mesh
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs.evaluate import read_batches
from spectral_jax.runs.train import train

RECIPES = {"sae-lp": vars(DEMO_TRAINING), "residual": {"mirror": True}}


def errors(found: np.ndarray, original: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Errors (mesh, 3) of meshes in metres: mean distance of vertices and of edges in mm, mean angle in degrees."""
    edges = mesh.edges(faces, found.shape[1])
    off = found - original
    distances = 1000 * np.linalg.norm(off, axis=-1).mean(axis=1)
    edge = 1000 * np.linalg.norm(off[:, edges[:, 0]] - off[:, edges[:, 1]], axis=-1).mean(axis=1)
    cosine = np.sum(_normals(found, faces) * _normals(original, faces), axis=-1)
    return np.stack([distances, edge, np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean(axis=1)], axis=1)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (mesh, face, 3)."""
    a, b, c = (vertices[:, faces[:, corner]].astype(np.float64) for corner in range(3))
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), np.finfo(np.float64).tiny)


def measure(data: Data, reconstruct: Callable[[np.ndarray], Any]) -> list[float]:
    """The mean errors on the test split of the vertices that coefficients are reconstructed to."""
    modes, faces = min(ModelConfig.modes, data.basis.num_modes), np.asarray(data.basis.faces)
    batches = read_batches(LazySplit(data, "test", modes), modes)
    rows = [errors(np.asarray(reconstruct(coefficients)), vertices, faces) for coefficients, vertices in batches]
    return np.concatenate(rows).mean(axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="a dataset, or the word demo")
    parser.add_argument("--network", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--weights", nargs="+", type=float, default=[0, 1, 10, 100])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data, figures = open_data(options.data), {}
    announce()
    row = table(f"Errors on the test split of {options.data}", "network", "weight", "mm", "edge, mm", "normal, °")
    figures["basis alone"] = measure(data, functools.partial(spectral.reconstruct, data.basis))
    row("basis", None, *figures["basis alone"])
    for network in options.network:
        for weight in options.weights:
            with tempfile.TemporaryDirectory() as folder:
                given = {"network": network, "laplacian_weight": weight, **RECIPES[network]}
                run = train(data, Path(folder) / "run", **given)
                figures[f"{network} {weight:g}"] = found = measure(data, Codec.of(run).reconstruct)
            row(network, weight, *found)
    save(options.json, {"data": options.data, "errors": figures})


if __name__ == "__main__":
    main()
