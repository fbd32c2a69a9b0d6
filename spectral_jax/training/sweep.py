"""Many trainings side by side on one device: seeds and learning rates of one network by vmap."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.network.autoencoder import ModelConfig, SpectralAutoencoder
from spectral_jax.training.loop import FitData, learning_rates
from spectral_jax.training.schedule import Plateau, step_plateau
from spectral_jax.training.step import (
    EpochMetrics,
    StepRange,
    TrainConfig,
    init_state,
    num_steps,
    train_epochs,
    validate,
)


class Trial(NamedTuple):
    """One training of a sweep: what was tried, and the mean vertex error on the test split, mm, at each validation."""

    seed: int
    learning_rate: float
    validations_mm: list[float]

    @property
    def error_mm(self) -> float:
        """The error after the last epoch; not finite when training diverged."""
        return self.validations_mm[-1]


def sweep(
    model_config: ModelConfig,
    config: TrainConfig,
    data: FitData,
    seeds: Sequence[int],
    rates: Sequence[float],
    watch: Callable[[int], None] = lambda epochs_done: None,
) -> list[Trial]:
    """Train a network with every seed and learning rate at once; each trial is what `fit` would do with it alone.

    All trials share the coefficients on the device; a trial that diverges does not disturb the others.
    """
    model = SpectralAutoencoder(model_config)
    configs = [dataclasses.replace(config, seed=seed, learning_rate=rate) for seed in seeds for rate in rates]
    trials = [Trial(c.seed, c.learning_rate, []) for c in configs]
    plateaus = [Plateau(c.learning_rate) for c in configs]
    validation_mm: list[float | None] = [None] * len(configs)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(init_state(model_config, c) for c in configs))
    keys = jnp.stack([jax.random.fold_in(jax.random.key(c.seed), 1) for c in configs])
    train, *validation = jax.device_put(tuple(data))
    steps, epoch = num_steps(len(train), config.batch_size), 0
    while epoch < config.epochs:
        arguments = zip(configs, plateaus, validation_mm, strict=True)
        ahead = np.stack([learning_rates(c, plateau, mm, epoch, steps) for c, plateau, mm in arguments])
        every = config.validate_every
        count = min(ahead.shape[1], every - epoch % every, config.epochs - epoch)
        span = StepRange(*(np.int32(number) for number in (epoch, count, 0, steps)))
        states = _train(model, config, states, train, keys, span, ahead)
        epoch += count
        due, errors = epoch % every == 0, None
        if due or epoch == config.epochs:
            each = np.asarray(_validate(model, states.params, *validation), np.float64)
            errors = np.mean(each, axis=1)
        for i, trial in enumerate(trials):
            for done in range(epoch - count + 1, epoch + 1):
                if errors is not None and done == epoch:
                    trial.validations_mm.append(float(errors[i]))
                    validation_mm[i] = float(errors[i]) if due else validation_mm[i]
                known = validation_mm[i]
                plateaus[i] = plateaus[i] if known is None else step_plateau(plateaus[i], known)
        watch(epoch)
    return trials


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _train(model, config, states, coefficients, keys, span, rates):
    epochs = functools.partial(train_epochs, model, config)
    return jax.vmap(epochs, in_axes=(0, None, None, 0, None, 0))(
        states, EpochMetrics(), coefficients, keys, span, rates
    )[0]


@functools.partial(jax.jit, static_argnums=0)
def _validate(model, params, *validation):
    return jax.vmap(lambda params: validate(model, params, *validation)[0])(params)
