"""Shared by all benchmarks: a record of the machine, the rates it reaches, timing and tables.

python benchmarks/machine.py   # prints the machine and the rates it reaches
"""

import functools
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

import spectral_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
COPIED = 2**29  # bytes
REST = 0.05  # seconds before each measurement, so that idle threads of the other side fall asleep


@functools.cache
def record() -> dict[str, object]:
    """Return the machine, its load, package versions and the date, as they were at the first call."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "device": jax.devices()[0].device_kind,
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "spectral_jax": spectral_jax.__version__,
        **versions,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


@functools.cache
def ceilings(precision: str = "default") -> dict[str, float]:
    """Measure flops per second of square matrix products, and bytes per second, read plus written, of a memory pass."""
    sizes = (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192)
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    product = jax.jit(functools.partial(jnp.matmul, precision="highest" if precision == "highest" else None))
    flops = 0.0
    for size in sizes:
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        flops = max(flops, 2 * size**3 / _best(lambda matrix=matrix: product(matrix, matrix).block_until_ready()))
    array, increase = jnp.zeros(COPIED // 4), jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: no new pages

    def copy():
        nonlocal array
        array = increase(array).block_until_ready()

    return {"flops": flops, "bytes": 2 * COPIED / _best(copy)}


def _best(run: Callable[[], object], repeats: int = 10) -> float:
    return min(seconds(run) for _ in range(repeats))


def seconds(run: Callable[[], object]) -> float:
    """Time one call, in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Timing(NamedTuple):
    """Seconds of the first call, which compiles, and the median of later calls; or the reason why both are missing."""

    first: float | None
    median: float | None
    missing: str | None = None


def alternate(sides: dict, rounds: int, optional: Collection = ()) -> dict[object, Timing]:
    """Time functions alternately, reversing the order every round; only those named in `optional` may raise."""
    first, times, missing = {}, {name: [] for name in sides}, {}
    for name, run in sides.items():
        try:
            first[name] = seconds(run)
        except Exception as error:
            if name not in optional:
                raise
            lines = [line for line in str(error).splitlines() if line.strip()]
            missing[name] = f"not available: {type(error).__name__}: {lines[0] if lines else ''}"
    for turn in range(rounds):
        for name in list(first)[:: -1 if turn % 2 else 1]:
            time.sleep(REST)
            times[name].append(seconds(sides[name]))
    return {
        name: Timing(None, None, missing[name])
        if name in missing
        else Timing(first[name], statistics.median(times[name]))
        for name in sides
    }


def announce() -> None:
    """Print the record of the machine."""
    print(", ".join(f"{name} {value}" for name, value in record().items()))


def table(about: str, *names: str) -> Callable[..., None]:
    """Print the title and the columns of a table; return a function that prints a row, with None as a dash."""
    widths = [max(9, len(name)) for name in names]

    def row(*values: object) -> None:
        texts = ["-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        print("  ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True)), flush=True)

    print(f"\n{about}")
    row(*names)
    return row


def save(path: Path | None, figures: dict) -> None:
    """Write figures as JSON with the record of the machine, unless `path` is None."""
    if path:
        path.write_text(json.dumps({"machine": record(), **figures}, indent=1) + "\n")


def main() -> None:
    announce()
    row = table("Ceilings", "precision", "GFLOP/s", "GB/s")
    for precision in ("highest", "default", "bf16"):
        rates = ceilings(precision)
        row(precision, rates["flops"] / 1e9, rates["bytes"] / 1e9)


if __name__ == "__main__":
    main()
