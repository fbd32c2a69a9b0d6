"""The spectral autoencoder with learned pooling, SAE-LP (Lemeunier et al. 2022, section 4)."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.network import primitives
from spectral_jax.network.config import ModelConfig

ACTIVATIONS = {
    "ELU": primitives.elu,
    "ReLU": nn.relu,
    "Tanh": jnp.tanh,
    "Sigmoid": nn.sigmoid,
    "LeakyReLU": lambda x: nn.leaky_relu(x, 0.01),
    "SiLU": nn.silu,
}
MATRICES = ("downsampling_", "upsampling_")  # how names of pooling matrices begin
COORDINATES = 3  # x, y and z of a coefficient: the channels that come in and go out


class Conv(nn.Module):
    """Convolution along frequency with zero padding, and a bias."""

    features: int
    size: int
    custom_backward: bool

    @nn.compact
    def __call__(self, x: Float[Array, "chan batch freq"]) -> Float[Array, "out batch freq"]:
        """Convolve the channels and add the bias."""
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (self.size, x.shape[0], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        convolve = primitives.convolve_custom_backward if self.custom_backward else primitives.convolve
        return convolve(x, kernel, bias)


class SpectralAutoencoder(nn.Module):
    """Encoder and decoder on spectral coefficients (batch, freq, 3). Inputs are not standardised.

    With `custom_backward`, gradients use the hand-written backward passes of `primitives`: faster in reverse mode, but
    without forward mode.
    """

    config: ModelConfig
    custom_backward: bool = False

    def setup(self):
        config, xavier = self.config, nn.initializers.xavier_uniform()
        size, custom = config.conv_size, self.custom_backward
        ends = list(zip(config.lengths[:-1], config.lengths[1:], strict=True))
        self.encoder_conv = [Conv(features, size, custom) for features in config.channels]
        self.downsampling = [self.param(f"downsampling_{i}", xavier, shape) for i, shape in enumerate(ends)]
        self.encoder_linear = nn.Dense(config.latent_size, kernel_init=xavier)
        self.decoder_linear = nn.Dense(config.channels[-1] * config.pooled[-1], kernel_init=xavier)
        self.upsampling = [self.param(f"upsampling_{i}", xavier, shape[::-1]) for i, shape in enumerate(reversed(ends))]
        self.decoder_conv = [Conv(features, size, custom) for features in config.decoder_channels]
        self.last_conv = Conv(COORDINATES, size, custom)

    def encode(self, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch latent"]:
        """Latents of coefficients. Raises ValueError for a wrong number of modes."""
        if coefficients.shape[1:] != (self.config.modes, 3):
            raise ValueError(
                f"coefficients are (batch, {self.config.modes}, 3) for this network, not {coefficients.shape}"
            )
        activation, pool = self._operations()
        x = coefficients.transpose(2, 0, 1)
        pool_first = self.config.pooling == "before-activation"
        for conv, pooling in zip(self.encoder_conv, self.downsampling, strict=True):
            x = activation(pool(conv(x), pooling)) if pool_first else pool(activation(conv(x)), pooling)
        return self.encoder_linear(x.transpose(1, 0, 2).reshape(len(coefficients), -1))

    def decode(self, latents: Float[Array, "batch latent"]) -> Float[Array, "batch freq 3"]:
        """Coefficients of latents. Raises ValueError for a wrong latent size."""
        if latents.shape[1:] != (self.config.latent_size,):
            raise ValueError(f"latents are (batch, {self.config.latent_size}) for this network, not {latents.shape}")
        activation, pool = self._operations()
        deepest = self.config.channels[-1], self.config.pooled[-1]
        x = self.decoder_linear(latents).reshape(len(latents), *deepest).transpose(1, 0, 2)
        for pooling, conv in zip(self.upsampling, self.decoder_conv, strict=True):
            x = activation(conv(pool(x, pooling)))
        return self.last_conv(x).transpose(1, 2, 0)

    def _operations(self):
        """The activation, and the pooling with or without its custom backward pass."""
        pool = primitives.pool_custom_backward if self.custom_backward else primitives.pool
        activation = ACTIVATIONS[self.config.activation]
        if self.config.pooling_matrices == "average":  # Adam leaves alone what has no gradient
            return activation, lambda x, matrix: pool(x, jax.lax.stop_gradient(matrix))
        return activation, pool

    def __call__(self, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch freq 3"]:
        """Encode coefficients, and decode their latents."""
        return self.decode(self.encode(coefficients))


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: ModelConfig, key: Array) -> dict:
    """Initialise parameters, float32: Xavier uniform for weights and pooling matrices, zero for biases.

    Pooling matrices that are not learned are averages. The distribution is otherwise that of
    `SpectralAutoencoder.init`. All weights are drawn at once: XLA takes ten times as long to compile a random generator
    for each of the 18 weights.
    """
    example = jax.ShapeDtypeStruct((1, config.modes, 3), jnp.float32)
    shapes = jax.eval_shape(SpectralAutoencoder(config).init, key, example)["params"]
    leaves, structure = jax.tree.flatten(shapes)
    sizes = [0 if leaf.ndim == 1 else leaf.size for leaf in leaves]  # leaves with one axis are biases
    draws = jnp.split(jax.random.uniform(key, (sum(sizes),), minval=-1, maxval=1), np.cumsum(sizes)[:-1])

    def xavier(draw, leaf):
        if leaf.ndim == 1:
            return jnp.zeros(leaf.shape, leaf.dtype)
        fans = leaf.size // leaf.shape[-1] + leaf.size // leaf.shape[-2]
        return math.sqrt(6 / fans) * draw.reshape(leaf.shape)

    params = jax.tree.unflatten(structure, [xavier(*pair) for pair in zip(draws, leaves, strict=True)])
    if config.pooling_matrices == "average":
        params |= {name: averages(*leaf.shape) for name, leaf in params.items() if name.startswith(MATRICES)}
    return params


def averages(num_in: int, num_out: int) -> Float[np.ndarray, "freq pooled"]:
    """The matrix that averages neighbouring frequencies: each result is the mean over its share of the range.

    A longer result repeats, so that a constant stays a constant in either direction.
    """
    ends = np.linspace(0, 1, num_in + 1)[:, None], np.linspace(0, 1, num_out + 1)[None]
    overlap = np.minimum(ends[0][1:], ends[1][:, 1:]) - np.maximum(ends[0][:-1], ends[1][:, :-1])
    shares = np.maximum(overlap, 0)
    return (shares / shares.sum(axis=0, keepdims=True)).astype(np.float32)
