"""Training as the benchmarks call it: only this module knows the signatures in `spectral_jax.training.step`."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from spectral_jax.network.autoencoder import ModelConfig, SpectralAutoencoder
from spectral_jax.training.devices import data_mesh
from spectral_jax.training.step import (
    EpochMetrics,
    Precision,
    StepRange,
    TrainConfig,
    init_state,
    num_steps,
    train_resident,
)


def ours(config: ModelConfig, coefficients, batch: int, precision: Precision = "default") -> Callable[[], None]:
    """Return a function that trains one epoch on the first device and waits for the result."""
    options, devices = TrainConfig(batch_size=batch, precision=precision), data_mesh(jax.devices()[:1])
    model, steps = SpectralAutoencoder(config), num_steps(len(coefficients), batch)
    place = functools.partial(jax.device_put, device=NamedSharding(devices, PartitionSpec()))
    state, key = place((init_state(config, options), jax.random.key_data(jax.random.key(0))))
    coefficients, rates, epoch = place(coefficients), np.full((1, steps), 1e-4, np.float32), 0

    def run():
        nonlocal state, epoch
        span = StepRange(*map(np.int32, (epoch, 1, 0, steps)))
        state, sums = train_resident(model, options, devices, state, EpochMetrics(), coefficients, key, span, rates)
        jax.block_until_ready(sums)
        epoch += 1

    return run


def num_measured(batch: int) -> int:
    """Return the number of steps in one measurement: enough to time reliably, few enough to be quick."""
    return max(8, 1024 // batch) if jax.default_backend() != "cpu" else min(8, max(2, 256 // batch))
