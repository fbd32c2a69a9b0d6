"""Measure how many meshes per second the AMASS recipe builds, on files with the formats and sizes of AMASS and SMPL-H.

The bodies are random, with arrays of the real shapes (a closed mesh of 6,890 vertices, dense pose correctives). The
motion generator makes the sequences. Prints one JSON line for each number of modes.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull

from spectral_jax.bodies import amass, motion
from spectral_jax.data import posed_bodies
from spectral_jax.data.recipes import PublishedRecipe
from spectral_jax.files.progress import Silent

VERTICES = 6890


def closed_mesh(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points spread evenly over a sphere, and the triangles between them."""
    i = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    points = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)
    return points, ConvexHull(points).simplices


def write_body(path: Path, seed: int) -> None:
    """Write a body in SMPL-H format whose arrays have the real shapes."""
    rng = np.random.default_rng(seed)
    points, faces = closed_mesh(VERTICES)
    weights = np.zeros((VERTICES, 52))
    for _ in range(4):
        weights[np.arange(VERTICES), rng.integers(0, 52, VERTICES)] += rng.random(VERTICES)
    regressor = np.zeros((52, VERTICES))
    regressor[np.arange(52), rng.integers(0, VERTICES, 52)] = 1
    np.savez(
        path,
        v_template=points,
        f=faces,
        weights=weights / weights.sum(axis=1, keepdims=True),
        shapedirs=0.01 * rng.standard_normal((VERTICES, 3, 16)),
        posedirs=0.001 * rng.standard_normal((VERTICES, 3, 459)),
        J_regressor=regressor,
        kintree_table=np.stack([np.arange(52) - 1, np.arange(52)]),
    )


def write_sequences(root: Path, subjects: int, sequences: int, frames: int) -> int:
    """Write all published sets as AMASS folders; return the number of meshes that the recipe makes of them."""
    poses = [motion.synthesise(kind, frames, 100.0, 0).astype(np.float64) for kind in motion.KINDS]
    sets = [name for names in amass.SPLITS.values() for name in names]
    for n in range(subjects):
        folder = root / sets[n % len(sets)] / f"subject{n:03d}"
        folder.mkdir(parents=True)
        for i in range(sequences):
            gender = ("female", "male")[n % 2]
            sequence = motion.MotionSequence(poses[(n + i) % len(poses)], np.full(16, 0.1 * i), gender, 100.0)
            motion.write_sequence(folder / f"{i:02d}_poses.npz", sequence)
    return subjects * sequences * len(range(int(0.1 * frames), int(0.9 * frames), 100))


class Clock(Silent):
    """Progress that notes when each mesh was written."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        if task.startswith("building"):
            self.times.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--sequences", type=int, default=20, help="sequences per subject")
    parser.add_argument("--frames", type=int, default=1500, help="frames per sequence")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed, gender in enumerate(("male", "female")):
            (root / "bodies" / gender).mkdir(parents=True)
            write_body(root / "bodies" / gender / "model.npz", seed)
        meshes = write_sequences(root / "amass", options.subjects, options.sequences, options.frames)
        for modes in options.modes:
            clock = Clock()
            recipe = PublishedRecipe(
                amass=root / "amass", body_dir=root / "bodies", out=root / f"out{modes}", modes=modes
            )
            posed_bodies.published("amass", recipe, clock)
            seconds = clock.times[-1] - clock.times[0]
            figures = {
                "vertices": VERTICES,
                "modes": modes,
                "meshes": meshes,
                "meshes_per_second": round(meshes / seconds, 1),
                "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
