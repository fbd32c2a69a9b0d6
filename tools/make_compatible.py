"""Makes tests/compatible/VERSION: a dataset, a run and a release as this version writes them, and what they come to.

Made once for every version whose files differ from those of the one before, and kept as it is from then on:

    python tools/make_compatible.py
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import trimesh

import spectral_jax
from spectral_jax import Codec
from spectral_jax.basis import spectral
from spectral_jax.data import writer
from spectral_jax.data.dataset import Example
from spectral_jax.geometry.mesh import Mesh
from spectral_jax.runs.logs import read_log

FOLDER = Path(__file__).parent.parent / "tests" / "compatible" / spectral_jax.__version__
NETWORK = ["--latent-size", "2", "--conv-size", "1", "--activation", "Tanh", "--modes", "16"]
TRAINING = ["--epochs", "2", "--batch-size", "4", "--validate-every", "1", "--learning-rate", "1e-3"]


def meshes(count: int, seed: int, modes: spectral.SpectralBasis, keep_vertices: bool):
    """Ellipsoids of 42 vertices."""
    sphere = trimesh.creation.icosphere(subdivisions=1)
    axes = np.random.default_rng(seed).uniform(0.5, 1.5, (count, 3))
    for i, scale in enumerate(axes):
        vertices = (sphere.vertices * scale).astype(np.float32)
        coefficients = np.asarray(spectral.project(modes, vertices))
        yield Example(coefficients, vertices if keep_vertices else None, f"id{i % 2}", "Ellipsoids", f"{i}.ply", i, "")


def main() -> None:
    """Write the folder; it must not exist."""
    FOLDER.mkdir(parents=True)
    sphere = trimesh.creation.icosphere(subdivisions=1)
    template = Mesh(np.asarray(sphere.vertices, np.float32), np.asarray(sphere.faces, np.int32))
    modes = spectral.truncate(spectral.compute(template.faces, len(template.vertices)), 16)
    splits = {"train": meshes(10, 1, modes, False), "test": meshes(3, 2, modes, True)}
    writer.write(FOLDER / "data", modes, template, splits, {"recipe": "ellipsoids"})
    command = [sys.executable, "-m", "spectral_jax"]
    train = ["train", "--data", "data", "--run", "run", *NETWORK, *TRAINING, "--clip-norm", "2"]
    for arguments in (train, ["export", "run", "release.npz"]):
        subprocess.run([*command, *arguments], cwd=FOLDER, check=True)
    shutil.rmtree(FOLDER / "run" / "best")  # is as `last`
    (FOLDER / "run" / ".lock").unlink()
    for name in ("config.json", "last/2/commit_success.txt"):  # they tell where this machine keeps them
        file = FOLDER / "run" / name
        file.write_text(file.read_text().replace(f"{FOLDER}/", ""))
    run = spectral_jax.load_run(FOLDER / "run")
    test = spectral_jax.open_data(FOLDER / "data").splits["test"]
    coefficients = np.stack([test[i].coefficients for i in range(len(test))])
    np.savez(
        FOLDER / "expected.npz",
        coefficients=coefficients,
        latents=Codec.of(run).encode(coefficients),
        validation_mm=[line["spatial_validation_loss"] for line in read_log(FOLDER / "run")],
    )


if __name__ == "__main__":
    main()
