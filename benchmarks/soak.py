"""Train a tiny set for many epochs and report growth of memory, files and time.

python benchmarks/soak.py                # 2,000 epochs, about two minutes on two cores
python benchmarks/soak.py --epochs 200
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
import tyro

from spectral_jax.basis import spectral
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import run, train
from spectral_jax.training.batches import FitData
from spectral_jax.training.config import TrainConfig

ROWS = 10  # of the table; each covers the same number of epochs


@dataclass(frozen=True)
class Soak:
    """Train for many epochs, with a validation and a checkpoint every ten; print a table and the growth."""

    epochs: int = 2000
    """Number of epochs."""

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            soak(self.epochs, Path(folder))


def soak(epochs: int, folder: Path) -> None:
    """Train in a folder and print what each tenth of the epochs used."""
    sphere = trimesh.creation.icosphere(subdivisions=2)
    modes = spectral.truncate(spectral.compute(np.asarray(sphere.faces, np.int32), len(sphere.vertices)), 32)
    scales = np.random.default_rng(0).uniform(0.5, 1.5, (53, 1, 3))
    vertices = (np.asarray(sphere.vertices)[None] * scales).astype(np.float32)
    coefficients = np.stack([np.asarray(spectral.project(modes, mesh)) for mesh in vertices])
    data = FitData(coefficients[:44], np.asarray(modes.modes), coefficients[44:], vertices[44:])
    options = TrainConfig(epochs=epochs, batch_size=8, learning_rate=1e-4, validate_every=10)
    path = run.create(folder / "run", run.RunConfig(ModelConfig(32, 4), options, "soak"), modes)

    print(" epoch     memory  ms/epoch with files  checkpoints    events       log")
    every, rows, trained, start = epochs // ROWS, [], 0.0, time.perf_counter()
    for progress in train.train_run(path, data):
        epoch = progress.position.epoch
        trained += sum(figures["epoch_time"] for figures in progress.figures.values())
        if epoch >= every * (len(rows) + 1):
            count = epoch - (rows[-1][0] if rows else 0)
            took = (time.perf_counter() - start) / count
            rows.append((epoch, resident_bytes(), 1000 * trained / count, 1000 * took, *map(size, parts(path))))
            row = rows[-1]
            print(
                f"{row[0]:>6,} {row[1] / 1e6:>7,.1f} MB {row[2]:>9.2f} {row[3]:>10.1f}",
                f"{row[4] / 1e6:>9.2f} MB {row[5] / 1e3:>6.0f} kB {row[6] / 1e3:>6.0f} kB",
                flush=True,
            )
            trained, start = 0.0, time.perf_counter()
    warm, last = rows[1], rows[-1]
    memory, speed, checkpoints = (100 * (last[i] / warm[i] - 1) for i in (1, 2, 4))
    print(
        f"after warm-up: memory {memory:+.1f} %, time per epoch {speed:+.0f} %, checkpoints {checkpoints:+.1f} %; "
        f"bytes per epoch: events {last[5] / last[0]:.0f}, log {last[6] / last[0]:.0f}"
    )


def parts(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the files of the checkpoints, of TensorBoard and of the log."""
    checkpoints = [*path.glob("last/**/*"), *path.glob("best/**/*")]
    return checkpoints, list(path.glob("tb_logs/*")), list(path.glob("log.jsonl"))


def size(files: list[Path]) -> int:
    """Return the total size of files in bytes."""
    return sum(file.stat().st_size for file in files if file.is_file())


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes (Linux only)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    tyro.cli(Soak)()
