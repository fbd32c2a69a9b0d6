"""Measure how training time grows with the batch, the number of modes and the dataset, and fit a line to each.

    python benchmarks/growth.py   # --quick uses smaller sizes

The sizes in a table alternate. The fit minimises relative errors.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from machine import alternate, announce, save, table
from ours import num_measured, ours

from spectral_jax.network.config import ModelConfig


def side(freq: int, meshes: int, batch: int):
    """Return a function that trains one epoch on random meshes."""
    coefficients = np.random.default_rng(0).standard_normal((meshes, freq, 3), np.float32)
    return ours(ModelConfig(modes=freq), coefficients, batch)


def line(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """Fit a line by least squares of relative errors; return its value at size zero and its slope."""
    growth, start = np.polyfit(sizes, values, 1, w=1 / np.array(values))
    return float(start), float(growth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    batches = [2**i for i in range(5 if options.quick else 10)]
    frequencies = [256, 512, 1024, 2048, 4096][: 3 if options.quick else 5]
    scale = 1 if jax.default_backend() == "cpu" else 8
    meshes = [64, 128] if options.quick else [scale * n for n in (256, 512, 1024, 2048)]
    most = frequencies[-1]
    announce()

    timings = alternate({b: side(most, num_measured(b) * b, b) for b in batches}, options.rounds)
    steps = [1000 * timings[b].median / num_measured(b) for b in batches]
    row = table(f"Training step by batch, {most} modes", "batch", "ms/step", "ms/mesh", "meshes/s")
    for batch, step in zip(batches, steps, strict=True):
        row(batch, step, step / batch, 1000 * batch / step)
    by_batch = line(batches, steps)
    print(f"a step takes {by_batch[0]:.3g} ms plus {by_batch[1]:.3g} ms per mesh")

    timings = alternate({freq: side(freq, num_measured(16) * 16, 16) for freq in frequencies}, options.rounds)
    means = [1000 * timings[freq].median / num_measured(16) / 16 for freq in frequencies]
    row = table("Training step by modes, batch 16", "modes", "ms/mesh", "us/mode")
    for freq, mean in zip(frequencies, means, strict=True):
        row(freq, mean, 1000 * mean / freq)
    by_modes = line(frequencies, means)
    print(f"a mesh takes {by_modes[0]:.3g} ms plus {1000 * by_modes[1]:.3g} ms per thousand modes")

    timings = alternate({n: side(1024, n, 16) for n in meshes}, options.rounds)
    epochs = [timings[n].median for n in meshes]
    row = table("Epoch by dataset, 1024 modes, batch 16", "meshes", "s/epoch", "ms/mesh")
    for count, epoch in zip(meshes, epochs, strict=True):
        row(count, epoch, 1000 * epoch / count)
    by_meshes = line(meshes, epochs)
    print(f"an epoch takes {1000 * by_meshes[0]:.3g} ms plus {1000 * by_meshes[1]:.3g} ms per mesh")

    figures = {
        "batch": {"modes": most, "size": batches, "ms_a_step": steps, "line": by_batch},
        "modes": {"batch": 16, "size": frequencies, "ms_a_mesh": means, "line": by_modes},
        "meshes": {"modes": 1024, "batch": 16, "size": meshes, "s_an_epoch": epochs, "line": by_meshes},
    }
    save(options.json, figures)


if __name__ == "__main__":
    main()
