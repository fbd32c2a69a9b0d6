"""The devices that training runs on, of one machine or several, as one axis over which batches are split."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

AXIS = "data"


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """The devices (default: all, of every process) along one axis."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def initialise(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes; without arguments as SLURM, Kubernetes or the cloud say. Call before anything else.

    Raises ValueError when some arguments are given and others not, or when no cluster is found.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise ValueError("--coordinator, --num-processes and --process-id go together")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot join the other processes: {error}") from error


def make_deterministic() -> None:
    """Have XLA use deterministic kernels alone on a GPU, none chosen by the clock. Call before anything else."""
    add_xla_flags("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def add_xla_flags(*flags: str) -> None:
    """Append those flags that this version of XLA knows to XLA_FLAGS. Call before JAX computes anything."""
    present = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [present, *filter(xla_knows, flags)]))


def xla_knows(flag: str) -> bool:
    """Whether this version of XLA accepts the flag: asked in another process, as XLA aborts at one it does not know."""
    ask = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
    return subprocess.run(ask, env={**os.environ, "XLA_FLAGS": flag}, capture_output=True).returncode == 0


def is_main() -> bool:
    """Whether this process is the one that writes files and messages."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has come to the place of this name."""
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def max_over_processes(*values: int) -> tuple[int, ...]:
    """The largest of each value among the processes."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.array(values, np.int32))
    return tuple(int(value) for value in np.max(gathered, axis=0))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device; every process has to have all of them."""
    sharding = NamedSharding(mesh, PartitionSpec())

    def place(array):
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def local_rows(count: int) -> range:
    """Which of `count` rows this process reads where each reads its part; equally many for all, the last ones short."""
    size = -(-count // jax.process_count())
    start = min(jax.process_index() * size, count)
    return range(start, min(start + size, count))


def all_gather(rows: Float[np.ndarray, "row ..."], count: int, mesh: Mesh) -> jax.Array:
    """All `count` rows on every device, of which this process has its `share`."""
    processes = jax.process_count()
    if processes == 1:
        return replicate(rows, mesh)
    size = -(-count // processes)
    padded = np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
    by_process = Mesh(np.reshape(mesh.devices, (processes, -1)), ("process", "local"))
    split = NamedSharding(by_process, PartitionSpec("process"))
    spread = jax.make_array_from_process_local_data(split, padded, (size * processes, *rows.shape[1:]))
    whole = jax.jit(lambda x: x[:count], out_shardings=NamedSharding(mesh, PartitionSpec()))(spread)
    return jax.block_until_ready(whole)  # two exchanges between processes at a time can meet in the wrong order
