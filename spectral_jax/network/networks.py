"""The networks by name: modules, parameters, and the module that training sees.

Every network is a Flax module with `encode`, `decode` and `__call__` on coefficients (batch, freq, 3). Its parameters
are in the collection "params"; what training does not change is in "constants", which SAE-LP does not have.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from spectral_jax.network import autoencoder
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.network.config import ModelConfig
from spectral_jax.network.residual import ResidualAutoencoder, ScoreAutoencoder

Network = SpectralAutoencoder | ResidualAutoencoder
TrainedPart = SpectralAutoencoder | ScoreAutoencoder


def build(config: ModelConfig) -> Network:
    """The network of these options."""
    return SpectralAutoencoder(config) if config.network == "sae-lp" else ResidualAutoencoder(config)


def trained_part(network: Network) -> TrainedPart:
    """The module that training applies to its rows, with the parameters of the network.

    Rows are coefficients (freq, 3) for SAE-LP, scores for the residual network. Distances between rows, and between
    decoded rows, are those between coefficients.
    """
    return network if isinstance(network, SpectralAutoencoder) else ScoreAutoencoder(network.config)


def variables(params: Any, constants: Any) -> dict[str, Any]:
    """The argument of `apply`: both collections, of which a network without constants has only the first."""
    return {"params": params, "constants": constants} if constants else {"params": params}


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: ModelConfig, key: Array) -> dict:
    """Initialise the parameters of a network, float32."""
    if config.network == "sae-lp":
        return autoencoder.init_params(config, key)
    initialised: Any = ScoreAutoencoder(config).init(key, jnp.zeros((1, config.directions + 1)))
    return initialised["params"]


def constant_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's constants by name."""
    if config.network == "sae-lp":
        return {}
    example = jax.ShapeDtypeStruct((1, config.modes, 3), jnp.float32)
    shapes = jax.eval_shape(ResidualAutoencoder(config).init, jax.random.key(0), example)["constants"]
    return {name: leaf.shape for name, leaf in shapes.items()}
