"""Apply a trained network to any number of meshes, in batches of few sizes, with transfers beside the computation."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.network import networks, principal, residual
from spectral_jax.network.networks import Network
from spectral_jax.network.principal import Principal, Rows

BATCH = 64  # meshes in a batch; 16 to 64 are within 30 % on two CPU cores, and a GPU needs many
AHEAD = 2  # batches that are computed while an earlier one is fetched
NO_BASIS = (
    "has no basis, so its coefficients have no vertices: convert its checkpoint again with the dataset, "
    "`spectral-jax convert ... --data DATA`, or recover it, `spectral-jax basis align --run`"
)


@runtime_checkable
class Trained(Protocol):
    """What `Codec.of` accepts: a `Run`, or anything with a network, its parameters and their basis."""

    @property
    def model(self) -> Network: ...
    @property
    def params(self) -> Any: ...
    @property
    def constants(self) -> Any: ...
    @property
    def basis(self) -> SpectralBasis | None: ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "basis", "constants", "displacements"],
    meta_fields=["model"],
)
@dataclass(frozen=True)
class Codec:
    """A trained network and its basis, both on the device.

    The methods take any number of meshes, as an array or as rows that are read while the device works, and return
    float32 on the host. Batches have 64 rows, or the next power of two for fewer rows: at most 7 compilations per
    function. Missing rows are padded with zeros and do not affect the others. All products have precision "highest", as
    in the evaluation. Raises ValueError for rows of a shape that the network does not take.

    Under `jit` and `grad` use `encode_batch` and the other functions below: a codec is a pytree, so its parameters are
    arguments.
    """

    model: Network
    params: Any
    basis: SpectralBasis | None
    """SpectralBasis of the network's modes; None: the methods that take or return vertices raise ValueError."""
    constants: Any = None
    """Of a residual network."""
    displacements: Principal | None = None
    """The mean and the directions of a residual network in vertices, which decode to vertices without the modes."""

    @classmethod
    def of(cls, run: Trained) -> Codec:
        """Make the codec of a run, on the default device."""
        basis = None if run.basis is None else spectral.truncate(run.basis, run.model.config.modes)
        codec = cls(run.model, *jax.device_put((run.params, basis, run.constants)))
        if basis is None or run.constants is None:
            return codec
        fitted = residual.principal_of(run.constants)
        return replace(codec, displacements=principal.in_vertices(fitted, codec.require_basis()))

    @property
    def variables(self) -> dict[str, Any]:
        """What the module's `apply` takes."""
        return networks.variables(self.params, self.constants)

    def require_basis(self) -> SpectralBasis:
        """The basis. Raises ValueError when there is none."""
        if self.basis is None:
            raise ValueError(f"the run {NO_BASIS}")
        return self.basis

    def encode(self, coefficients: Iterable | Rows) -> Float[np.ndarray, "mesh latent"]:
        """Latents of coefficients (mesh, freq, 3)."""
        return self._gather(encode_batch, coefficients, (self.model.config.latent_size,))

    def encode_vertices(self, vertices: Iterable) -> Float[np.ndarray, "mesh latent"]:
        """Latents of vertices (mesh, vertex, 3) in metres, placed like the training meshes."""
        return self._gather(encode_vertices_batch, vertices, (self.model.config.latent_size,))

    def decode(self, latents: Iterable) -> Float[np.ndarray, "mesh freq 3"]:
        """Coefficients of latents (mesh, latent)."""
        return self._gather(decode_batch, latents, (self.model.config.modes, 3))

    def decode_vertices(self, latents: Iterable) -> Float[np.ndarray, "mesh vertex 3"]:
        """Vertices in metres of latents (mesh, latent)."""
        return self._gather(decode_vertices_batch, latents, (self.require_basis().num_vertices, 3))

    def reconstruct(self, coefficients: Iterable | Rows) -> Float[np.ndarray, "mesh vertex 3"]:
        """Vertices in metres of coefficients (mesh, freq, 3) after encoding and decoding."""
        return self._gather(reconstruct_batch, coefficients, (self.require_basis().num_vertices, 3))

    def stream(self, function: Callable[[Codec, Array], Array], rows: Iterable | Rows) -> Iterator[np.ndarray]:
        """Apply `decode_batch` or another such function to rows, and yield the results batch by batch."""
        size, under_way = 1, deque()
        for batch in _batches(rows):
            size = max(size, 1 << (len(batch) - 1).bit_length())  # pad a smaller last batch rather than compile for it
            count = len(batch)
            if count < size:
                batch = np.concatenate([batch, np.zeros((size - count, *batch.shape[1:]), np.float32)])
            result = function(self, jnp.asarray(batch))
            result.copy_to_host_async()
            under_way.append((result, count))
            if len(under_way) > AHEAD:
                result, count = under_way.popleft()
                yield np.asarray(result)[:count]
        for result, count in under_way:
            yield np.asarray(result)[:count]

    def _gather(self, function: Callable, rows: Iterable | Rows, shape: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([np.empty((0, *shape), np.float32), *self.stream(function, rows)])


@jax.jit
@jax.default_matmul_precision("highest")
def encode_batch(codec: Codec, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch latent"]:
    """Latents of coefficients."""
    method = "encode" if codec.constants is None else "encode_refined"
    latents: Any = codec.model.apply(codec.variables, coefficients, method=method)
    return latents


@jax.jit
@jax.default_matmul_precision("highest")
def decode_batch(codec: Codec, latents: Float[Array, "batch latent"]) -> Float[Array, "batch freq 3"]:
    """Coefficients of latents."""
    coefficients: Any = codec.model.apply(codec.variables, latents, method="decode")
    return coefficients


@jax.jit
@jax.default_matmul_precision("highest")
def decode_rows_batch(codec: Codec, latents: Float[Array, "batch latent"]) -> Float[Array, "batch *row"]:
    """What the network decodes latents to first: coefficients, or principal scores with the same distances."""
    method = "decode" if codec.constants is None else "decode_scores"
    rows: Any = codec.model.apply(codec.variables, latents, method=method)
    return rows


@jax.jit
def encode_vertices_batch(codec: Codec, vertices: Float[Array, "batch vertex 3"]) -> Float[Array, "batch latent"]:
    """Latents of vertices in metres."""
    return encode_batch(codec, spectral.project(codec.require_basis(), vertices))


@jax.jit
def decode_vertices_batch(codec: Codec, latents: Float[Array, "batch latent"]) -> Float[Array, "batch vertex 3"]:
    """Vertices in metres of latents."""
    if codec.displacements is None:
        return spectral.reconstruct(codec.require_basis(), decode_batch(codec, latents))
    return principal.reconstruct(codec.displacements, decode_rows_batch(codec, latents))


@jax.jit
def reconstruct_batch(codec: Codec, coefficients: Float[Array, "batch freq 3"]) -> Float[Array, "batch vertex 3"]:
    """Vertices in metres of coefficients after encoding and decoding."""
    return decode_vertices_batch(codec, encode_batch(codec, coefficients))


def _batches(rows: Iterable | Rows) -> Iterator[np.ndarray]:
    """Yield arrays of up to BATCH rows, float32. What is on disk is read batch by batch."""
    if isinstance(rows, jax.Array):
        rows = np.asarray(rows)
    if isinstance(rows, Rows):
        yield from (np.asarray(rows[start : start + BATCH], np.float32) for start in range(0, len(rows), BATCH))
        return
    rows = iter(rows)
    while chunk := list(islice(rows, BATCH)):
        yield np.stack(chunk, dtype=np.float32)
