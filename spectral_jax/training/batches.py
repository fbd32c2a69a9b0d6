"""How coefficients reach the devices: all resident there, or block by block from host memory or from record files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from spectral_jax.training import devices
from spectral_jax.training.devices import AXIS

BLOCK_BYTES = 2**26  # of meshes sent to the devices at a time
Placement = Literal["device", "host", "stream"]
Storage = Literal["float32", "bf16"]


class DeviceData(NamedTuple):
    """All coefficients, on every device."""

    coefficients: Array


class StreamedData(NamedTuple):
    """Coefficients that stay where they are, an array in host memory or records on disk, and travel in blocks."""

    meshes: Sequence | np.ndarray
    num_modes: int

    def __len__(self) -> int:
        return len(self.meshes)


def choose(num_meshes: int, num_modes: int, storage: Storage = "float32") -> Placement:
    """On the devices where 60 % of their free memory is enough, else in half of the host's memory, else streamed."""
    size = num_meshes * num_modes * 3 * np.dtype(_dtype(storage)).itemsize
    memory = psutil.virtual_memory().total
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        if size <= 0.6 * (stats["bytes_limit"] - stats["bytes_in_use"]):
            return "device"
        return "host" if size <= memory / 2 else "stream"
    return "device" if size <= memory / 2 else "stream"  # a CPU: the device's memory is the host's


def resident(coefficients: Float[np.ndarray, "row freq 3"], count: int, mesh: Mesh, storage: Storage) -> DeviceData:
    """Coefficients placed on every device; of `count` meshes this process gives its `devices.share`."""
    return DeviceData(devices.all_gather(np.asarray(coefficients, _dtype(storage)), count, mesh))


def block_steps(feed: StreamedData, rows: int, storage: Storage) -> int:
    """Steps in a block whose batches have so many rows."""
    return max(1, BLOCK_BYTES // (rows * feed.num_modes * 3 * np.dtype(_dtype(storage)).itemsize))


def blocks(
    feed: StreamedData, order: Int[np.ndarray, "step row"], mesh: Mesh, storage: Storage
) -> Iterator[tuple[Array, Array, int]]:
    """An order's batches (-1: no mesh) in blocks: meshes (step, row, freq, 3), which of them count, the steps in use.

    Blocks are read ahead in threads; each process reads the rows of its own devices. Raises ValueError for a mesh with
    a value that is not finite.
    """
    import grain

    steps = min(block_steps(feed, order.shape[1], storage), len(order))
    source = _Source(feed, order, steps, _own_rows(order.shape[1], mesh), _dtype(storage))
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    split = NamedSharding(mesh, PartitionSpec(None, AXIS))
    for i, (meshes, counts) in enumerate(grain.MapDataset.source(source).to_iter_dataset(reading)):
        placed = (
            jax.make_array_from_process_local_data(split, local, (steps, order.shape[1], *local.shape[2:]))
            for local in (meshes, counts)
        )
        yield *placed, min(steps, len(order) - i * steps)


def _own_rows(rows: int, mesh: Mesh) -> slice:
    """The rows of each batch that belong to this process, whose devices follow each other."""
    mine = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    size = rows // mesh.size
    return slice(mine[0] * size, (mine[-1] + 1) * size)


class _Source:
    """The blocks of an epoch, read when asked for; all have the same shape."""

    def __init__(self, feed: StreamedData, order: np.ndarray, steps: int, rows: slice, dtype: np.dtype):
        self.feed, self.order, self.steps, self.rows, self.dtype = feed, order, steps, rows, dtype

    def __len__(self) -> int:
        return -(-len(self.order) // self.steps)

    def __getitem__(self, index) -> tuple[np.ndarray, np.ndarray]:
        order = self.order[index * self.steps : (index + 1) * self.steps, self.rows]
        counts = np.zeros((self.steps, order.shape[1]), np.float32)
        counts[: len(order)] = order >= 0
        meshes = np.zeros((*counts.shape, self.feed.num_modes, 3), self.dtype)
        if isinstance(self.feed.meshes, np.ndarray):
            meshes[: len(order)] = self.feed.meshes[order, : self.feed.num_modes]
            return meshes, counts
        for step, row in np.argwhere(order >= 0):
            mesh = int(order[step, row])
            example = self.feed.meshes[mesh]
            coefficients = example.coefficients[: self.feed.num_modes]
            if not np.isfinite(coefficients).all():
                raise ValueError(f"mesh {mesh} of the train split ({example.file}) has values that are not finite")
            meshes[step, row] = coefficients
        return meshes, counts


def _dtype(storage: Storage) -> np.dtype:
    if storage not in get_args(Storage):
        raise ValueError(f"storage must be float32 or bf16, not {storage!r}")
    return np.dtype(np.float32 if storage == "float32" else jnp.bfloat16)
