"""Time a training step beside PyTorch's, alternating in one run; the last columns are PyTorch's time divided by ours.

    python benchmarks/train_step.py                                    # a table of sizes
    python benchmarks/train_step.py --freq 4096 --batch 16 --json FILE # one size; both take several values
    python benchmarks/train_step.py --precision highest default bf16   # for both sides

Both sides do the same work on meshes that are already on the device: forward pass, backward pass and Adam. Ours is a
step within the loop of an epoch, as in training. PyTorch's is measured in three forms: eager, with Adam as the
published system calls it; compiled; and, on a GPU, compiled into CUDA graphs (mode reduce-overhead). The compiled
forms use the fused Adam; --eager omits them.
"""

import argparse
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import jax
import numpy as np
from machine import alternate, announce, ceilings, save, table
from ours import num_measured, ours
from work import activation_bytes, roofline_seconds, step_bytes, step_flops

from spectral_jax.network.config import ModelConfig
from spectral_jax.training.config import Precision

try:
    import torch

    from spectral_jax.pytorch.reference import TorchSpectralAutoencoder
except ModuleNotFoundError:  # ours is measured without it
    torch = None

MODES = {"torch_eager": None, "torch_compile": "default", "torch_graphs": "reduce-overhead"}


def theirs(config: ModelConfig, batches: Iterable, precision: Precision, mode: str | None = None) -> Callable[[], None]:
    """Return a function that trains PyTorch's network on the batches and waits; `mode` is that of torch.compile."""
    if torch is None:
        return functools.partial(_refuse, "PyTorch is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if mode == "reduce-overhead" and device == "cpu":
        return functools.partial(_refuse, "no CUDA")
    torch.set_float32_matmul_precision("highest" if precision == "highest" else "high")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = precision != "highest", True
    network = TorchSpectralAutoencoder(config).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True if mode else None)

    def loss_of(coefficients):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return torch.nn.functional.mse_loss(network(coefficients).float(), coefficients)

    loss_of = torch.compile(loss_of, mode=mode) if mode else loss_of

    def run():
        for coefficients in batches:
            optimiser.zero_grad()
            loss_of(coefficients.to(device, non_blocking=True)).backward()
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _refuse(reason):
    raise RuntimeError(reason)


def measure(freq: int, batch: int, precision: Precision, rounds: int, modes: Iterable[str]) -> dict[str, object]:
    """Measure one size: milliseconds per step and first call of each side, the roofline, its fraction, the ratios."""
    config, steps = ModelConfig(modes=freq), num_measured(batch)
    meshes = np.random.default_rng(0).standard_normal((steps * batch, freq, 3), np.float32)
    batches = []
    if torch:
        batches = torch.from_numpy(meshes).to("cuda" if torch.cuda.is_available() else "cpu").split(batch)
    sides = {name: theirs(config, batches, precision, MODES[name]) for name in modes}
    optional = set(sides) - ({"torch_eager"} if torch else set())
    timings = alternate({"ours": ours(config, meshes, batch, precision), **sides}, rounds, optional)
    if torch:
        torch.compiler.reset()
    own, bound = timings["ours"].median, roofline_seconds(config, batch, precision)
    cell = {"freq": freq, "batch": batch, "precision": precision}
    for name, timing in timings.items():
        cell[f"{name}_ms"] = None if timing.missing else timing.median / steps * 1000
        cell[f"{name}_first_call_s"] = timing.first
        if timing.missing:
            cell[name] = timing.missing
    moved = step_bytes(config, batch, activation_bytes(precision))
    cell |= {"gflop": step_flops(config, batch) / 1e9, "mbytes": moved / 1e6}
    cell |= {"roofline_ms": bound * 1000, "roofline_fraction": bound * steps / own}
    ratios = {name: None if timings[name].missing else timings[name].median / own for name in reversed(list(sides))}
    return cell | {f"ratio_{name}": ratio for name, ratio in ratios.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_cpu = jax.default_backend() == "cpu"
    parser.add_argument("--freq", type=int, nargs="+", default=[4096, 1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 128, 512] + [1024] * (not on_cpu))
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["default"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--eager", action="store_true", help="omit torch.compile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    announce()
    modes = [name for name, mode in MODES.items() if not (options.eager and mode)]
    short = [name.removeprefix("torch_") for name in modes]
    columns = ["ours ms", *(f"{name} ms" for name in short), "% of roofline", *(f"{name}/ours" for name in short[::-1])]
    row = table("Training step", "modes", "batch", "precision", *columns)
    cells, missing = [], {}
    for precision in options.precision:
        for freq in options.freq:
            for batch in options.batch:
                cell = measure(freq, batch, precision, options.rounds, modes)
                times = [cell[f"{name}_ms"] for name in ("ours", *modes)]
                ratios = [cell[f"ratio_{name}"] for name in reversed(modes)]
                row(freq, batch, precision, *times, 100 * cell["roofline_fraction"], *ratios)
                cells.append(cell)
                missing |= {name: cell[name] for name in modes if name in cell}
    for name, reason in missing.items():
        print(f"{name}: {reason}")
    rates = {precision: ceilings(precision) for precision in options.precision}
    save(options.json, {"ceilings": rates, **(cells[0] if len(cells) == 1 else {"cells": cells})})


if __name__ == "__main__":
    main()
