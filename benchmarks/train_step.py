"""One training step beside that of PyTorch, alternating in one run: the ratio of the medians is the result.

    python benchmarks/train_step.py                                    # a table of sizes
    python benchmarks/train_step.py --freq 4096 --batch 16 --json FILE # one cell

Both sides do the same work on the same meshes: forward, backward and Adam in float32. Ours is a step inside the scan of
an epoch, the way it is used; PyTorch's is eager, without reading any data.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import torch

from spectral_jax.model import ModelConfig, SpectralAutoencoder
from spectral_jax.torch_reference import TorchSpectralAutoencoder
from spectral_jax.train import TrainConfig, init_state, train_epoch

CELLS = [(freq, batch) for freq in (1024, 4096) for batch in (16, 64, 128)]
STEPS = 8  # in one measurement of either side


def ours(config, meshes, batch):
    """A function that trains for STEPS steps."""
    model, state, key = SpectralAutoencoder(config), init_state(config, TrainConfig()), jax.random.key(0)
    rates, meshes = np.full(STEPS, 1e-4, np.float32), jax.device_put(meshes)

    def run():
        nonlocal state
        state, loss = train_epoch(model, state, meshes, key, rates, batch)
        loss.block_until_ready()

    return run


def theirs(config, meshes, batch):
    """The same in eager PyTorch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = TorchSpectralAutoencoder(config).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    batches = torch.from_numpy(meshes).to(device).split(batch)

    def run():
        for coefficients in batches:
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(network(coefficients), coefficients).backward()
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def measure(freq, batch, rounds):
    """Milliseconds a step of both sides, medians over alternating rounds, and PyTorch's over ours."""
    config = ModelConfig(modes=freq)
    meshes = np.random.default_rng(0).standard_normal((STEPS * batch, freq, 3)).astype(np.float32)
    sides = {"ours_ms": ours(config, meshes, batch), "torch_eager_ms": theirs(config, meshes, batch)}
    times = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if turn:  # the first one compiles
                times[name].append((time.perf_counter() - start) / STEPS * 1000)
    cell = {"freq": freq, "batch": batch, **{name: statistics.median(values) for name, values in times.items()}}
    return cell | {"ratio_torch_eager": cell["torch_eager_ms"] / cell["ours_ms"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--freq", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.freq is None) != (options.batch is None):
        parser.error("--freq and --batch go together")
    machine = {
        "device": jax.devices()[0].device_kind, "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(), "jax": jax.__version__, "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{'freq':>6} {'batch':>6} {'ours ms':>10} {'PyTorch ms':>11} {'PyTorch / ours':>15}")
    cells = []
    for freq, batch in [(options.freq, options.batch)] if options.freq else CELLS:
        cells.append(measure(freq, batch, options.rounds))
        figures = cells[-1]
        print(
            f"{freq:>6} {batch:>6} {figures['ours_ms']:>10.1f} {figures['torch_eager_ms']:>11.1f} "
            f"{figures['ratio_torch_eager']:>15.2f}"
        )
    if options.json:
        record = {"machine": machine, "cells": cells} if options.freq is None else {**machine, **cells[0]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
