"""Training as the benchmarks call it: the one place that knows the signatures of `spectral_jax.training`."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.batches import num_steps
from spectral_jax.training.config import Precision, TrainConfig
from spectral_jax.training.devices import data_mesh
from spectral_jax.training.dispatch import StepRange, TrainContext, train_resident
from spectral_jax.training.state import EpochMetrics, init_state


def ours(config: ModelConfig, coefficients, batch: int, precision: Precision = "default") -> Callable[[], None]:
    """A function that trains for an epoch on the first device and waits for it."""
    options, device_mesh = TrainConfig(batch_size=batch, precision=precision), data_mesh(jax.devices()[:1])
    context, steps = (
        TrainContext(SpectralAutoencoder(config), options, device_mesh),
        num_steps(len(coefficients), batch),
    )
    place = functools.partial(jax.device_put, device=NamedSharding(device_mesh, PartitionSpec()))
    state, key_data = place((init_state(config, options), jax.random.key_data(jax.random.key(0))))
    coefficients, rates, epoch = place(coefficients), np.full((1, steps), 1e-4, np.float32), 0

    def run():
        nonlocal state, epoch
        span = StepRange(*map(np.int32, (epoch, 1, 0, steps)), rates)
        state, sums = train_resident(context, state, EpochMetrics(), coefficients, key_data, span)
        jax.block_until_ready(sums)
        epoch += 1

    return run


def num_measured(batch: int) -> int:
    """Number of steps in one measurement: enough for the clock's resolution, and some seconds at most."""
    return max(8, 1024 // batch) if jax.default_backend() != "cpu" else min(8, max(2, 256 // batch))
