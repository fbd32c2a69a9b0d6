"""Where a batch comes from: the order of the meshes in an epoch, and their way to the devices.

Coefficients are all resident on the devices (`DeviceData`), or travel in blocks of batches from host memory or from
record files (`StreamedData`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from spectral_jax.network.principal import Principal, Rows
from spectral_jax.training import devices
from spectral_jax.training.config import Storage
from spectral_jax.training.devices import AXIS

BLOCK_BYTES = 2**26  # size of the meshes sent to the devices at a time


class DeviceData(NamedTuple):
    """All training rows, on every device."""

    coefficients: Array


class StreamedData(NamedTuple):
    """Coefficients that stay where they are, an array in host memory or records on disk, and travel in blocks."""

    meshes: Sequence | np.ndarray | Rows
    num_modes: int

    def __len__(self) -> int:
        return len(self.meshes)


class FitData(NamedTuple):
    """What `fit` trains and validates on, with the network's number of modes; float32 and metres.

    Test meshes that are `Rows` stay on disk and are read at every validation. For the residual network,
    `training.scores` turns the coefficients into scores, and the modes into the principal
    directions as displacements of vertices.
    """

    train_coefficients: Float[Array | np.ndarray, "mesh *row"] | DeviceData | StreamedData
    modes: Float[Array | np.ndarray, "vertex freq"] | Principal
    test_coefficients: Float[Array | np.ndarray, "mesh *row"] | Rows
    test_vertices: Float[Array | np.ndarray, "mesh vertex 3"] | Rows

    @property
    def num_meshes(self) -> int:
        """Number of meshes in the train split."""
        train = self.train_coefficients
        return len(train.coefficients if isinstance(train, DeviceData) else train)


class Batch(NamedTuple):
    """The meshes of a step; those of several steps have a leading axis."""

    coefficients: Any
    """Float (row, freq, 3), or (row, score) for the residual network; zeros in rows that only fill up the batch."""
    mask: Any
    """float32 (row): 1 for a mesh, 0 for a filled-up row."""
    num_valid: Any
    """float32 scalar: number of meshes in the batch, on all devices together."""


def num_steps(num_meshes: int, batch_size: int) -> int:
    """Number of steps in an epoch, including the smaller last batch."""
    return -(-num_meshes // batch_size)


def shuffling_key(seed: int) -> Array:
    """The random key of the order of the meshes; the initial parameters use another one."""
    return jax.random.fold_in(jax.random.key(seed), 1)


@functools.partial(jax.jit, static_argnames=("num_meshes", "batch_size", "num_devices"))
def epoch_order(
    key: Array, epoch: Int[Array, ""] | int, num_meshes: int, batch_size: int, num_devices: int = 1
) -> Int[Array, "step row"]:
    """The meshes of each step of an epoch (0-based), shuffled; a function of the key and the epoch alone.

    -1 fills up the smaller last batch, and the rows of every batch up to a multiple of the number of devices.
    """
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_meshes)
    steps = num_steps(num_meshes, batch_size)
    order = jnp.pad(order, (0, steps * batch_size - num_meshes), constant_values=-1).reshape(steps, batch_size)
    return jnp.pad(order, ((0, 0), (0, -batch_size % num_devices)), constant_values=-1)


def resident(
    coefficients: Float[np.ndarray, "mesh *row"] | Rows, count: int, device_mesh: Mesh, storage: Storage
) -> DeviceData:
    """Place `count` meshes on every device, slab by slab: nothing else holds more than a slab of what stays on disk.

    Of several processes each passes its `devices.local_rows` of them, in memory.
    """
    dtype = storage_dtype(storage)
    if jax.process_count() > 1:
        return DeviceData(devices.all_gather(np.asarray(coefficients, dtype), count, device_mesh))
    shape = (count, *coefficients.shape[1:])
    everywhere = NamedSharding(device_mesh, PartitionSpec())
    whole = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=everywhere)()
    size = max(1, BLOCK_BYTES // (4 * math.prod(shape[1:])))
    for start in range(0, count, size):
        slab = np.asarray(coefficients[start : start + size]).astype(dtype, copy=False)
        whole = _put(whole.block_until_ready(), devices.replicate(slab, device_mesh), start)
    return DeviceData(whole)


@functools.partial(jax.jit, donate_argnums=0)
def _put(whole: Array, slab: Array, start: Int[Array, ""] | int) -> Array:
    """Write a slab into its place."""
    return jax.lax.dynamic_update_slice_in_dim(whole, slab, start, axis=0)


def blocks(
    data: StreamedData, order: Int[np.ndarray, "step row"], device_mesh: Mesh, storage: Storage
) -> Iterator[tuple[Batch, int]]:
    """The batches of an order (-1: no mesh) in blocks of several steps, each with the number of steps in use.

    Threads read the next blocks ahead; each process reads the rows of its own devices. Raises ValueError for a mesh
    with a value that is not finite.
    """
    import grain

    bytes_per_step = order.shape[1] * data.num_modes * 3 * storage_dtype(storage).itemsize
    steps = min(max(1, BLOCK_BYTES // bytes_per_step), len(order))
    source = _Blocks(data, order, steps, _own_rows(order.shape[1], device_mesh), storage_dtype(storage))
    reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    split = NamedSharding(device_mesh, PartitionSpec(None, AXIS))
    for i, (coefficients, mask) in enumerate(grain.MapDataset.source(source).to_iter_dataset(reading)):
        own_order = order[i * steps : (i + 1) * steps]
        num_valid = np.zeros(steps, np.float32)
        num_valid[: len(own_order)] = np.sum(own_order >= 0, axis=1)
        coefficients, mask = (
            jax.make_array_from_process_local_data(split, local, (steps, order.shape[1], *local.shape[2:]))
            for local in (coefficients, mask)
        )
        yield Batch(coefficients, mask, num_valid), len(own_order)


def storage_dtype(storage: Storage) -> np.dtype:
    """The dtype of a storage. Raises ValueError for an unknown one."""
    if storage not in get_args(Storage):
        raise ValueError(f"storage must be float32 or bf16, not {storage!r}")
    return np.dtype(np.float32 if storage == "float32" else jnp.bfloat16)


def _own_rows(rows: int, device_mesh: Mesh) -> slice:
    """The rows of each batch that belong to this process, whose devices are consecutive."""
    mine = [i for i, device in enumerate(device_mesh.devices.flat) if device.process_index == jax.process_index()]
    size = rows // device_mesh.size
    return slice(mine[0] * size, (mine[-1] + 1) * size)


class _Blocks:
    """The blocks of an epoch as a sequence, each read when asked for; all have the same shape."""

    def __init__(self, data: StreamedData, order: np.ndarray, steps: int, rows: slice, dtype: np.dtype):
        self.data, self.order, self.steps, self.rows, self.dtype = data, order, steps, rows, dtype

    def __len__(self) -> int:
        return -(-len(self.order) // self.steps)

    def __getitem__(self, index) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (step, row, freq, 3) and mask (step, row) of the rows of this process."""
        order = self.order[index * self.steps : (index + 1) * self.steps, self.rows]
        mask = np.zeros((self.steps, order.shape[1]), np.float32)
        mask[: len(order)] = order >= 0
        coefficients = np.zeros((*mask.shape, self.data.num_modes, 3), self.dtype)
        if isinstance(self.data.meshes, np.ndarray):
            coefficients[: len(order)] = self.data.meshes[order, : self.data.num_modes]
            return coefficients, mask
        if isinstance(self.data.meshes, Rows):  # read from disk, in one go
            steps, rows = np.nonzero(order >= 0)
            coefficients[steps, rows] = self.data.meshes[order[steps, rows]]
            return coefficients, mask
        for step, row in np.argwhere(order >= 0):
            index = int(order[step, row])
            example = self.data.meshes[index]
            found = example.coefficients[: self.data.num_modes]
            if not np.isfinite(found).all():
                raise ValueError(f"mesh {index} of the train split ({example.file}) has values that are not finite")
            coefficients[step, row] = found
        return coefficients, mask
