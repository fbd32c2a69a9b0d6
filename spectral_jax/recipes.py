"""How datasets are made: sequences of body motion, posed, normalised and projected in batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np

from spectral_jax import basis as spectral
from spectral_jax import dataset
from spectral_jax.basis import SpectralBasis
from spectral_jax.body import Body, demo_body_path, load_body, pose_bodies
from spectral_jax.mesh import Mesh
from spectral_jax.motion import read_sequence, write_demo_motions

BATCH = 256
DEMO_SUBJECTS = {"train": 32, "test": 6}
DEMO_FRAMES = 12


def demo(
    out: str | Path,
    num_vertices: int = 1229,
    num_modes: int = 1024,
    seed: int = 0,
    overwrite: bool = False,
    track: Callable[[Iterable, str], Iterable] = dataset.untracked,
) -> Path:
    """Build the demo dataset: free bodies in synthetic motion, 12 frames of each sequence, subjects disjoint.

    The same seed gives the same records. `track` wraps the loops over sequences (a progress bar).
    """
    body = load_body(demo_body_path(num_vertices))
    basis = spectral.compute(body.faces, body.num_vertices, num_modes)
    rest = pose_bodies(body, np.zeros((1, 156), np.float32), np.zeros((1, 16), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(write_demo_motions(Path(folder), num_subjects=sum(DEMO_SUBJECTS.values()), seed=seed))
        subjects = sorted({path.parent.name for path in paths})
        train = set(subjects[: DEMO_SUBJECTS["train"]])
        files = {
            "train": [path for path in paths if path.parent.name in train],
            "test": [path for path in paths if path.parent.name not in train],
        }
        splits = {
            name: posed_examples(body, basis, track(files[name], f"building {name}"), DEMO_FRAMES, name == "test")
            for name in files
        }
        source = {"recipe": "demo", "seed": seed, "frames_per_sequence": DEMO_FRAMES}
        return dataset.write(out, basis, Mesh(np.asarray(rest[0]), body.faces), splits, source, overwrite)


def posed_examples(
    body: Body, basis: SpectralBasis, paths: Iterable[Path], frames_per_sequence: int, keep_vertices: bool
) -> Iterator[dataset.Example]:
    """Examples of evenly spaced frames of AMASS-format sequences: posed and projected in fixed batches on the device.

    Files lie in SET/IDENTITY/NAME.npz; pelvis at the origin, root orientation removed, metres.
    """
    modes = jax.device_put(basis.modes)

    @jax.jit
    def pose_and_project(poses, betas):
        vertices = pose_bodies(body, poses, betas)
        return vertices, spectral.project(SpectralBasis(modes, basis.eigenvalues, basis.faces), vertices)

    def flush(rows):
        poses, betas, origins = zip(*rows, strict=True)
        pad = [(0, BATCH - len(rows)), (0, 0)]
        vertices, coefficients = jax.device_get(pose_and_project(np.pad(poses, pad), np.pad(betas, pad)))
        for i, origin in enumerate(origins):
            yield dataset.Example(coefficients[i], vertices[i] if keep_vertices else None, **origin)

    rows = []
    for path in paths:
        sequence = read_sequence(path)
        for frame in np.linspace(0, len(sequence.poses), frames_per_sequence, endpoint=False).astype(int):
            origin = {
                "identity": path.parent.name,
                "dataset": path.parent.parent.name,
                "file": path.name,
                "frame": int(frame),
                "gender": sequence.gender,
            }
            rows.append((sequence.poses[frame], sequence.betas, origin))
        while len(rows) >= BATCH:
            yield from flush(rows[:BATCH])
            rows = rows[BATCH:]
    if rows:
        yield from flush(rows)
