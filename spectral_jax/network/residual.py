"""The residual autoencoder: principal component analysis, and what two small networks add to it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.network import primitives
from spectral_jax.network.config import ModelConfig
from spectral_jax.network.principal import Principal

# Scores are divided by d^SHARE * d_0^(1 - SHARE), d being their standard deviations and d_0 the largest one. Of 0, 0.2,
# 0.5 and 0.8, 0.2 gave the lowest error: directions with little variance still count, but less.
SHARE = 0.2
DAMPING = 1e-3  # of a Gauss-Newton step, as a share of the mean squared effect of a latent
LEAST = 1e-6  # smallest deviation, as a share of the largest one, so that nothing is divided by zero


class Correction(nn.Module):
    """Two hidden layers with a skip between them. The last layer starts at zero, so the correction does, too."""

    hidden_size: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch value"]) -> Float[Array, "batch out"]:
        """What to add to the linear part."""
        first = primitives.elu(nn.Dense(self.hidden_size)(x))
        second = first + primitives.elu(nn.Dense(self.hidden_size)(first))
        return nn.Dense(self.features, kernel_init=nn.initializers.zeros)(second)


class ScoreAutoencoder(nn.Module):
    """The trained part of the residual autoencoder, on principal scores s divided by fixed scales, x = s / scales:

        latents        z = x[:latent] + E(x)
        decoded scores s' = scales * (pad(z) + D(z))

    The corrections E and D start at zero, so the untrained network is PCA. Its constants are in the collection
    "constants"; training changes only "params".

    A mirror image has the same scores but for signs, "signs", where directions were found on meshes and their mirror
    images. A symmetric network uses this: E becomes (E(x) + signs * E(signs * x)) / 2, and D likewise, so the latents
    of a mirror image, and what they decode to, differ in signs alone as well.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.scales = self.variable("constants", "scales", jnp.ones, (config.directions,))
        if config.symmetric:
            self.signs = self.variable("constants", "signs", jnp.ones, (config.directions,))
        self.encoder = Correction(config.hidden_size, config.latent_size)
        self.decoder = Correction(config.hidden_size, config.directions)

    def encode_scores(self, scores: Float[Array, "batch score"]) -> Float[Array, "batch latent"]:
        """Latents of scores."""
        x = scores / self.scales.value[None]
        return _resized(x, self.config.latent_size) + self._correct(self.encoder, x, self.config.latent_size)

    def decode_scores(self, latents: Float[Array, "batch latent"]) -> Float[Array, "batch score"]:
        """Scores of latents. Raises ValueError for a wrong latent size."""
        if latents.shape[1:] != (self.config.latent_size,):
            raise ValueError(f"latents are (batch, {self.config.latent_size}) for this network, not {latents.shape}")
        correction = self._correct(self.decoder, latents, self.config.directions)
        return self.scales.value[None] * (_resized(latents, self.config.directions) + correction)

    def refine_scores(
        self, scores: Float[Array, "batch score"], latents: Float[Array, "batch latent"]
    ) -> Float[Array, "batch latent"]:
        """Latents after one damped Gauss-Newton step towards those that decode to the scores; where it helps.

        An encoder that was trained on some people is a little off on others, and the decoder tells how.
        """
        module, variables = self.unbind()

        def decode(latent: Array) -> Array:
            decoded: Any = module.apply(variables, latent[None], method="decode_scores")
            return decoded[0]

        def step(scores: Array, latent: Array) -> Array:
            off, jacobian = decode(latent) - scores, jax.jacfwd(decode)(latent)
            normal = jacobian.T @ jacobian
            damping = DAMPING * jnp.trace(normal) / len(latent) * jnp.eye(len(latent))
            moved = latent - jnp.linalg.solve(normal + damping, jacobian.T @ off)
            better = jnp.sum(jnp.square(decode(moved) - scores)) < jnp.sum(jnp.square(off))
            return jnp.where(better, moved, latent)

        return jax.vmap(step)(scores, latents)

    def reconstruct(self, rows: Float[Array, "batch row"]) -> Float[Array, "batch row"]:
        """Encode, refine and decode training rows: what evaluations of the network see."""
        scores = self._scores(rows)
        decoded = self.decode_scores(self.refine_scores(scores, self.encode_scores(scores)))
        return jnp.pad(decoded, ((0, 0), (0, 1)))

    def _correct(self, correction: Correction, x: Array, size: int) -> Array:
        """A correction (batch, size) for x; in a symmetric network, its part that has the symmetry."""
        if not self.config.symmetric:
            return correction(x)
        before, after = (padded_signs(self.signs.value, width)[None] for width in (x.shape[1], size))
        plain, mirrored = jnp.split(correction(jnp.concatenate([x, before * x])), 2)
        return (plain + after * mirrored) / 2

    def _scores(self, rows: Array) -> Array:
        """The scores in training rows. Raises ValueError for rows of another length."""
        count = self.config.directions
        if rows.shape[1:] not in ((count + 1,), (2 * count + 1,)):
            raise ValueError(f"rows are (batch, {count + 1}) for this network, not {rows.shape}")
        return rows[:, :count]

    def __call__(self, rows: Float[Array, "batch row"]) -> Float[Array, "batch row"]:
        """Encode and decode training rows: scores, and the norm of what the directions leave, which becomes zero.

        The squared error of a row is that of the mesh's coefficients. Rows for a weighted loss have more numbers of
        what the directions leave (`training.scores`).
        """
        decoded = self.decode_scores(self.encode_scores(self._scores(rows)))
        return jnp.pad(decoded, ((0, 0), (0, rows.shape[1] - decoded.shape[1])))


class ResidualAutoencoder(ScoreAutoencoder):
    """Encoder and decoder on spectral coefficients (batch, freq, 3), through their principal scores.

    It has the parameters of `ScoreAutoencoder`, and as further constants the mean of the train split and its principal
    directions.
    """

    def setup(self):
        super().setup()
        config = self.config
        self.mean = self.variable("constants", "mean", jnp.zeros, (config.modes, 3))
        self.directions = self.variable("constants", "directions", jnp.zeros, (config.directions, config.modes, 3))

    def encode(self, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch latent"]:
        """Latents of coefficients. Raises ValueError for a wrong number of modes."""
        if coefficients.shape[1:] != (self.config.modes, 3):
            raise ValueError(
                f"coefficients are (batch, {self.config.modes}, 3) for this network, not {coefficients.shape}"
            )
        return self.encode_scores(self._project(coefficients))

    def encode_refined(self, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch latent"]:
        """Latents of coefficients after a step of `refine_scores`: what the codec encodes to."""
        return self.refine_scores(self._project(coefficients), self.encode(coefficients))

    def _project(self, coefficients: Array) -> Array:
        """Principal scores of coefficients."""
        return jnp.einsum("bfc,sfc->bs", coefficients - self.mean.value[None], self.directions.value)

    def decode(self, latents: Float[Array, "batch latent"]) -> Float[Array, "batch freq 3"]:
        """Coefficients of latents. Raises ValueError for a wrong latent size."""
        scores = self.decode_scores(latents)
        return jnp.einsum("bs,sfc->bfc", scores, self.directions.value) + self.mean.value[None]

    def __call__(self, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch freq 3"]:
        """Encode coefficients, and decode their latents."""
        return self.decode(self.encode(coefficients))


def num_directions(config: ModelConfig, num_meshes: int) -> int:
    """The number of principal directions that so many meshes have, at most the configured one.

    Raises ValueError for fewer than 2 meshes.
    """
    if num_meshes < 2:
        raise ValueError(f"principal directions need at least 2 meshes, the train split has {num_meshes}")
    return min(config.directions, num_meshes - 1, 3 * config.modes)


def constants(principal: Principal) -> dict[str, Float[np.ndarray, "..."]]:
    """The constants of the network of these principal components of coefficients (freq, 3)."""
    deviations = np.maximum(principal.deviations, LEAST * max(principal.deviations[0], np.finfo(np.float32).tiny))
    scales = deviations**SHARE * deviations[0] ** (1 - SHARE)
    return {"mean": principal.mean, "directions": principal.components, "scales": scales.astype(np.float32)}


def principal_of(constants: dict[str, Any]) -> Principal:
    """The principal components that constants hold; their standard deviations follow from the scales."""
    scales = constants["scales"]
    deviations = (scales / scales[0] ** (1 - SHARE)) ** (1 / SHARE)
    return Principal(constants["mean"], constants["directions"], deviations)


def padded_signs(signs: Array | np.ndarray, size: int) -> Array:
    """The first signs, or all of them and ones."""
    return jnp.pad(signs, (0, max(0, size - len(signs))), constant_values=1)[:size]


def _resized(x: Array, size: int) -> Array:
    """The first columns, or all of them and zeros."""
    return jnp.pad(x, ((0, 0), (0, max(0, size - x.shape[1]))))[:, :size]
