"""Training as the benchmarks call it: the one place that knows the signatures of `spectral_jax.training`."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from spectral_jax.network import networks
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.batches import num_steps
from spectral_jax.training.config import Precision, TrainConfig
from spectral_jax.training.devices import data_mesh
from spectral_jax.training.dispatch import StepRange, TrainContext, train_resident
from spectral_jax.training.state import EpochMetrics, init_state


def ours(config: ModelConfig, rows, batch: int, precision: Precision = "default") -> Callable[[], None]:
    """A function that trains for an epoch on the first device and waits for it.

    Rows are coefficients (mesh, freq, 3), or scores (mesh, direction + 1) for the residual network.
    """
    options, device_mesh = TrainConfig(batch_size=batch, precision=precision), data_mesh(jax.devices()[:1])
    context = TrainContext(networks.trained_part(networks.build(config)), options, device_mesh)
    shapes, steps = networks.constant_shapes(config), num_steps(len(rows), batch)
    constants = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} or None
    place = functools.partial(jax.device_put, device=NamedSharding(device_mesh, PartitionSpec()))
    state, key_data = place((init_state(config, options), jax.random.key_data(jax.random.key(0))))
    rows, constants = place((rows, constants))
    rates, epoch = np.full((1, steps), 1e-4, np.float32), 0

    def run():
        nonlocal state, epoch
        span = StepRange(*map(np.int32, (epoch, 1, 0, steps)), rates)
        state, sums = train_resident(context, state, EpochMetrics(), rows, key_data, span, constants)
        jax.block_until_ready(sums)
        epoch += 1

    return run


def num_measured(batch: int) -> int:
    """Number of steps in one measurement: enough for the clock's resolution, and some seconds at most."""
    return max(8, 1024 // batch) if jax.default_backend() != "cpu" else min(8, max(2, 256 // batch))
