"""Everything needed to resume training: what a step changes, and what the loop remembers between steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from spectral_jax.network.config import ModelConfig
from spectral_jax.network.networks import init_params
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import Plateau


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes: parameters, Adam's moments (optax.ScaleByAdamState), number of steps taken (int32)."""

    params: Any
    opt_state: Any
    step: Any


def one_vector() -> bool:
    """Whether the loop over steps carries each of Adam's moments as one vector, and not as a tree.

    Beside a GPU this takes a few launches a step, and not a few for each parameter. On a CPU it would be slower: a
    step of 16 meshes with 1,024 modes took 15 % more time of the processor.
    """
    return jax.default_backend() != "cpu"


def swap_kernels(tree: Any) -> Any:
    """A tree of parameters with the first two axes of convolutions, (size, chan, out), swapped, and back; beside a GPU.

    Most products of a convolution take its kernel by channel. Swapped outside of the loop, it need not be in each step.
    """
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 3 else leaf, tree) if one_vector() else tree


def for_loop(state: TrainState) -> tuple[TrainState, Callable[[Any], Any]]:
    """The state as the loop over steps carries it, and the function from a moment to a tree of parameters."""
    params, adam = swap_kernels(state.params), state.opt_state
    unravel = jax.flatten_util.ravel_pytree(params)[1] if one_vector() else lambda tree: tree
    return TrainState(params, adam._replace(mu=ravel(adam.mu), nu=ravel(adam.nu)), state.step), unravel


def from_loop(state: TrainState, unravel: Callable[[Any], Any]) -> TrainState:
    """The state that `for_loop` was given, or one of its kind."""
    mu, nu = (swap_kernels(unravel(moment)) for moment in (state.opt_state.mu, state.opt_state.nu))
    return TrainState(swap_kernels(state.params), state.opt_state._replace(mu=mu, nu=nu), state.step)


def ravel(tree: Any) -> Any:
    """A gradient or moment as the loop carries it."""
    return jax.flatten_util.ravel_pytree(swap_kernels(tree))[0] if one_vector() else tree


class EpochMetrics(NamedTuple):
    """Running totals of the current epoch, as float32 and int32 scalars."""

    loss: Any = np.float32(0)
    """Sum of the loss over meshes."""
    meshes: Any = np.float32(0)
    """Number of meshes."""
    gradient_norm: Any = np.float32(0)
    """Sum of the gradient's norm over steps."""
    skipped: Any = np.int32(0)
    """Number of skipped steps."""
    bad_step: Any = np.int32(-1)
    """First step whose loss or gradient is not finite, -1 for none."""


class TrainingProgress(NamedTuple):
    """Everything needed to resume training: a checkpoint holds exactly this."""

    state: TrainState
    plateau: Plateau
    """State of the learning-rate rule."""
    epoch: int
    """Number of finished epochs."""
    validation_mm: float | None = None
    """Error of the latest validation that the plateau rule has seen, mm."""
    best_mm: float | None = None
    """Lowest validation error so far, mm."""
    step: int = 0
    """Number of steps taken in the current epoch."""
    sums: EpochMetrics = EpochMetrics()
    """Totals of those steps."""


_zeros_like = jax.jit(optax.tree.zeros_like)  # one program, not one for each shape of a parameter


def init_state(model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The state before the first step; it depends on the seed alone."""
    params = init_params(model_config, jax.random.key(config.seed))
    adam = optax.ScaleByAdamState(jnp.zeros((), jnp.int32), _zeros_like(params), _zeros_like(params))
    return TrainState(params, adam, jnp.zeros((), jnp.int32))


def init_progress(model_config: ModelConfig, config: TrainConfig) -> TrainingProgress:
    """The position of a new run."""
    return TrainingProgress(init_state(model_config, config), Plateau(config.learning_rate), 0)
