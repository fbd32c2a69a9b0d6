"""The devices of one or several machines, as one axis that batches are split over."""

from __future__ import annotations

import importlib.util
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
    """A device mesh of one axis: these devices, by default all of every process."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def initialise(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes. Without arguments, SLURM, Kubernetes or the cloud provides them.

    Call this before JAX computes anything. Raises ValueError when only some arguments are given, or when the other
    processes cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise ValueError("give --coordinator, --num-processes and --process-id together, or none of them")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot join the other processes: {error}") from error


# Untimed, Triton's kernels for matrix products have tile sizes that do not fit all of them: cuBLAS takes their place.
DETERMINISTIC = (
    "--xla_gpu_deterministic_ops=true",
    "--xla_gpu_autotune_level=0",
    "--xla_gpu_enable_triton_gemm=false",
)


def make_deterministic() -> None:
    """Restrict XLA to deterministic kernels on a GPU, chosen without timing them. Call before JAX computes anything."""
    add_xla_flags(*DETERMINISTIC)


LOOP_AS_GRAPH = "--xla_gpu_enable_command_buffer=+WHILE"


def use_graphs() -> None:
    """Have XLA put whole loops into CUDA graphs, not their bodies alone. Call before JAX computes anything.

    Nothing changes without JAX's plug-in for NVIDIA GPUs, or where XLA_FLAGS says what graphs may hold.
    """
    installed = any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin")))
    if installed and LOOP_AS_GRAPH.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        add_xla_flags(LOOP_AS_GRAPH)


def add_xla_flags(*flags: str) -> None:
    """Append flags to XLA_FLAGS, except those unknown to this version of XLA. Call before JAX computes anything."""
    present = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [present, *filter(xla_knows, flags)]))


def xla_knows(flag: str) -> bool:
    """Whether this version of XLA accepts the flag. XLA aborts at an unknown flag, so another process tries it."""
    ask = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
    return subprocess.run(ask, env={**os.environ, "XLA_FLAGS": flag}, capture_output=True).returncode == 0


def is_main() -> bool:
    """Whether this process is the one of several that writes files and messages."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Wait until every process has reached the point with this name."""
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def max_over_processes(*values: int) -> tuple[int, ...]:
    """The maximum of each value over the processes."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.array(values, np.int32))
    return tuple(int(value) for value in np.max(gathered, axis=0))


def replicate(tree: Any, device_mesh: Mesh) -> Any:
    """Copy arrays to every device; every process must hold all of them."""
    sharding = NamedSharding(device_mesh, PartitionSpec())

    def place(array):
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def local_rows(count: int) -> range:
    """The rows, of `count`, that this process reads: consecutive and equally many, fewer for the last processes."""
    size = -(-count // jax.process_count())
    start = min(jax.process_index() * size, count)
    return range(start, min(start + size, count))


def all_gather(rows: Float[np.ndarray, "row ..."], count: int, device_mesh: Mesh) -> jax.Array:
    """Place all `count` rows on every device; this process passes its `local_rows` of them."""
    processes = jax.process_count()
    if processes == 1:
        return replicate(rows, device_mesh)
    size = -(-count // processes)
    padded = np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
    by_process = Mesh(np.reshape(device_mesh.devices, (processes, -1)), ("process", "local"))
    split = NamedSharding(by_process, PartitionSpec("process"))
    spread = jax.make_array_from_process_local_data(split, padded, (size * processes, *rows.shape[1:]))
    whole = jax.jit(lambda x: x[:count], out_shardings=NamedSharding(device_mesh, PartitionSpec()))(spread)
    return jax.block_until_ready(whole)  # two exchanges between processes at a time can deadlock
