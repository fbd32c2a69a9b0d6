"""Fit a run to scans made of test meshes: parts are missing, there is noise, and the pose is unknown.

python benchmarks/fit_scans.py runs/demo-residual --meshes 8   # prints the table of docs/howto/fit.md
"""

import argparse
import time
from pathlib import Path

import numpy as np
from machine import announce, save, table
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from spectral_jax.fitting.fit import fit_prior, fit_scan
from spectral_jax.geometry.alignment import align
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.geometry.scans import Scan, sample
from spectral_jax.runs.opened import encode_some, open_run
from spectral_jax.runs.scans import NUM_LATENTS

POINTS, NOISE = 5000, 0.002
KINDS = ("view", "ball")


def make_scan(vertices: np.ndarray, faces: np.ndarray, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of two thirds of a surface with noise, and all vertices, both in an unknown pose."""
    random = np.random.default_rng(seed)
    points = sample(Scan(vertices.astype(np.float64), faces), POINTS * 3 // 2)
    if kind == "view":
        direction = random.normal(size=3) * (1, 0.3, 1)  # scanners stand about as high as what they see
        corners = vertices[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        order = np.argsort(-normals[KDTree(corners.mean(axis=1)).query(points)[1]] @ direction)
    else:
        order = np.argsort(-np.linalg.norm(points - points[random.integers(len(points))], axis=1))
    points = points[order[:POINTS]] + NOISE * random.normal(size=(POINTS, 3))
    turn, shift = Rotation.from_quat(random.normal(size=4)).as_matrix(), random.normal(size=3)
    return points @ turn.T + shift, vertices @ turn.T + shift


def rigid_mean(points: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean shape, turned and shifted to the points from 60 starts: closest points and Procrustes in turn."""
    best, least = mean, np.inf
    for start in Rotation.create_group("I").as_matrix():
        moved = (mean - mean.mean(axis=0)) @ start.T + points.mean(axis=0)
        for _ in range(30):
            near = KDTree(moved).query(points[::10])[1]
            moved = align(moved[near], points[::10]).apply(moved)
        off = KDTree(moved).query(points[::10])[0].mean()
        best, least = (moved, off) if off < least else (best, least)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", help="the dataset (default: the one the run was trained on)")
    parser.add_argument("--meshes", type=int, default=8, help="test meshes, evenly spaced")
    parser.add_argument("--refine-modes", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    announce()
    opened = open_run(options.run, options.data)
    codec, faces, test = opened.codec, np.asarray(opened.basis.faces), opened.data.splits["test"]
    prior = fit_prior(encode_some(opened, NUM_LATENTS).latents)
    mean = codec.decode_vertices([np.asarray(prior.density.mean)])[0].astype(np.float64)
    row = table(f"{options.run}: mm", "missing", "mesh", "network", "fit", "ratio", "rigid mean", "seconds", "cpu s")
    found = {kind: [] for kind in KINDS}
    for index in evenly_spaced(len(test), options.meshes):
        example = test[index]
        again = codec.reconstruct(example.coefficients[None, : opened.num_modes])[0]
        own = 1000 * float(np.linalg.norm(again - example.vertices, axis=1).mean())
        for kind in KINDS:
            points, true = make_scan(example.vertices, faces, kind, index)
            start, used = time.perf_counter(), time.process_time()
            fitted = fit_scan(codec, prior, points, refine_modes=options.refine_modes).vertices
            spent = time.perf_counter() - start, time.process_time() - used
            errors = [1000 * np.linalg.norm(x - true, axis=1).mean() for x in (fitted, rigid_mean(points, mean))]
            found[kind].append([own, *errors, *spent])
            row(kind, index, own, errors[0], errors[0] / own, errors[1], *spent)
    means = {kind: np.mean(rows, axis=0).tolist() for kind, rows in found.items()}
    for kind, (own, fit, rigid, *spent) in means.items():
        row(kind, "mean", own, fit, fit / own, rigid, *spent)
    save(options.json, {"mean": means, "all": found})


if __name__ == "__main__":
    main()
