"""Time a process from its start to the end of its first training step, with and without a compilation cache.

    python benchmarks/startup.py

Each measurement is a fresh process with five stages: the interpreter, the import of spectral_jax and JAX, the
creation of data and state, the first step, which compiles, and a second step. The cache is off, empty, or filled by
an earlier process; the command line keeps its own in the user's cache folder. Prints the median of several runs.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("interpreter", "import", "data", "first step", "second step")


def child(started: float, freq: int, batch: int) -> None:
    """Print the seconds of each stage as JSON."""
    times = [started, time.time()]
    import numpy as np
    from ours import ours

    from spectral_jax.network.config import ModelConfig

    times.append(time.time())
    meshes = np.random.default_rng(0).standard_normal((batch, freq, 3), np.float32)
    run = ours(ModelConfig(modes=freq), meshes, batch)
    times.append(time.time())
    for _ in range(2):
        run()
        times.append(time.time())
    print(json.dumps([after - before for before, after in itertools.pairwise(times)]))


def seconds(cache: str | None, freq: int, batch: int) -> list[float]:
    """Time each stage of a new process, in seconds, with a folder as compilation cache or with none."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    command = [sys.executable, __file__, "--freq", str(freq), "--batch", str(batch), "--child", str(time.time())]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def command_line() -> float | None:
    """Time a process that imports the command line, in seconds; None if a package is missing."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", "import spectral_jax.cli"], stderr=subprocess.DEVNULL)
    return None if done.returncode else time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freq", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=float, metavar="STARTED", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.freq, options.batch)
        return
    runs = {"none": [], "empty": [], "warm": []}
    imports = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for cache, path in (("none", None), ("empty", folder), ("warm", folder)):
                runs[cache].append(seconds(path, options.freq, options.batch))
        imports.append(command_line())

    from machine import announce, save, table  # starts JAX, so not while the measured processes run

    announce()
    row = table(f"Start, {options.freq} modes, batch {options.batch}, seconds", "cache", *STAGES, "to first step")
    medians = {}
    for cache, times in runs.items():
        stages = dict(zip(STAGES, map(statistics.median, zip(*times, strict=True)), strict=True))
        medians[cache] = stages | {"to first step": statistics.median(sum(run[:4]) for run in times)}
        row(cache, *medians[cache].values())
    imported = None if None in imports else statistics.median(imports)
    print("importing the whole command line:", "not installed" if imported is None else f"{imported:.2f} s")
    save(options.json, {"freq": options.freq, "batch": options.batch, "seconds": medians, "command_line_s": imported})


if __name__ == "__main__":
    main()
