"""Reading a dataset for training: the train split to where it fits, the test split into memory if it is small."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Int

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data import coefficients
from spectral_jax.data.coefficients import HeldOut, LazyCoefficients, LazyVertices, MirroredCoefficients
from spectral_jax.data.dataset import Data
from spectral_jax.files import memory
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network.config import ModelConfig
from spectral_jax.training import batches, devices, scores, smoothness
from spectral_jax.training.batches import FitData, StreamedData
from spectral_jax.training.config import Placement, Storage, TrainConfig

DEVICE_SHARE = 0.6  # of a GPU's free memory that the coefficients may take; activations need the rest
WORKING_BYTES = 2**30  # of activations, programs and blocks under way, wherever the coefficients are
TEST_BYTES = 2**29  # of test meshes that stay in memory; more are read at every validation,
TEST_SHARE = 0.1  # unless a GPU, and the host, have ten times as much free
MOST_VALIDATED = 1024  # test meshes that the residual network is validated on: an epoch of it takes a second


def choose_placement(
    num_meshes: int, num_modes: int, storage: Storage = "float32", beside: int = WORKING_BYTES
) -> Placement:
    """The first of device, host and stream with enough free memory for the coefficients, and `beside` on the host.

    Warns of the reason when it is not device, the fastest.
    """
    size = num_meshes * num_modes * 3 * batches.storage_dtype(storage).itemsize
    free, limit = memory.free_bytes()
    on_gpu = _device_bytes()
    places: list[Placement] = ["device", "stream"] if on_gpu is None else ["device", "host", "stream"]
    rooms = [(max(free - beside, batches.BLOCK_BYTES), f"{_gb(free)} are free within {limit}")]  # a block streams, too
    if on_gpu is not None:
        rooms.insert(0, (round(DEVICE_SHARE * on_gpu), f"{_gb(on_gpu)} are free on the device"))
    own = next((i for i, (room, _) in enumerate(rooms) if size <= room), len(rooms))
    (common,) = devices.max_over_processes(own)  # all processes place alike
    if common:
        why = ", ".join(words for _, words in rooms[:own]) or "another process has less free"
        needs = f"the coefficients take {_gb(size)} and the rest of training {_gb(beside)}, {why}"
        helps = "" if storage == "bf16" else "; --storage bf16 halves the coefficients"
        warnings.warn(f"--placement is {places[common]}: {needs}{helps}", stacklevel=2)
    return places[common]


def _device_bytes() -> int | None:
    """Free memory of a device with memory of its own; None for a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats and "bytes_limit" in stats else None


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def read_fit_data(
    data: Data,
    model: ModelConfig,
    config: TrainConfig,
    placement: Literal["auto"] | Placement = "auto",
    storage: Storage = "float32",
    progress: Progress = SILENT,
    constants: dict[str, Any] | None = None,
) -> FitData:
    """Read an opened dataset for training: the train split to its placement, the test split into memory if it is small.

    Nothing is in memory twice on the way. With the `constants` of a residual network, scores take the place of
    coefficients: they always fit on the device. Raises ValueError for too many modes, a batch larger than the train
    split, or a test split without vertices.
    """
    modes, held_out = model.modes, _held_out(data, config, progress)
    mirrored = config.mirror and not model.symmetric  # a symmetric network learns nothing from mirror images
    rows = _train_rows(data, modes, mirrored, held_out, progress)
    count = len(rows)
    if config.batch_size > count:
        raise ValueError(f"batch size {config.batch_size} is larger than the train split, {count} meshes")
    if constants is not None:
        own = devices.local_rows(count)
        blocks = (rows[start : min(start + coefficients.CHUNK, own.stop)] for start in own[:: coefficients.CHUNK])
        weights = smoothness.mode_weights(data.basis, model, config)
        weighted = None if weights is None else scores.weighted_directions(constants, weights)
        train = batches.resident(scores.all_rows(constants, blocks, weighted), count, devices.data_mesh(), "float32")
        test, vertices = validation_meshes(data, model, held_out, progress)
        moved = scores.displacements(data.basis.modes[:, :modes], constants)
        return FitData(train, moved, scores.all_rows(constants, [test[:]]), vertices)
    test, vertices = validation_meshes(data, model, held_out, progress)
    if placement == "auto":
        # The modes go to the device and are copied for pictures. Test meshes on disk are read in slabs.
        copied = 3 * data.basis.modes.nbytes + (test.nbytes + vertices.nbytes if isinstance(test, np.ndarray) else 0)
        placement = choose_placement(count, modes, storage, WORKING_BYTES + copied)
    if placement == "device":
        own = coefficients.read(rows, devices.local_rows(count)) if jax.process_count() > 1 else rows
        train = batches.resident(own, count, devices.data_mesh(), storage)
    elif placement == "host":
        train = StreamedData(coefficients.read(rows, range(count), batches.storage_dtype(storage)), modes)
    else:
        train = StreamedData(rows, modes)
    return FitData(train, data.basis.modes[:, :modes], test, vertices)


def fit_principal(
    data: Data, model: ModelConfig, config: TrainConfig, progress: Progress = SILENT
) -> tuple[ModelConfig, TrainConfig, dict[str, Any]]:
    """The constants of a residual network for the train split, and the options as far as the split determines them.

    There are at most as many directions as meshes less one, and a batch has at most all meshes. Raises ValueError for
    too many modes or fewer than 2 meshes.
    """
    rows = _train_rows(data, model.modes, config.mirror, _held_out(data, config, progress), progress)
    fitted, constants = scores.fit_constants(model, rows)
    count = len(rows) // (2 if fitted.symmetric else 1)
    return fitted, dataclasses.replace(config, batch_size=min(config.batch_size, count)), constants


def _held_out(data: Data, config: TrainConfig, progress: Progress) -> HeldOut | None:
    return coefficients.hold_out(data, config.holdout, config.seed, progress) if config.holdout else None


def _train_rows(
    data: Data, modes: int, mirrored: bool, held_out: HeldOut | None, progress: Progress
) -> LazyCoefficients | MirroredCoefficients:
    meshes = held_out.meshes if held_out else None
    return coefficients.train_coefficients(data, modes, mirrored, progress, meshes)


def validation_meshes(
    data: Data, model: ModelConfig, held_out: HeldOut | None = None, progress: Progress = SILENT
) -> tuple[Any, Any]:
    """Coefficients and vertices that a network is validated on: of the test split, or of the identities held out.

    At most MOST_VALIDATED for a residual network. Arrays if they are small, else rows on disk. The train split has no
    original vertices. Those that all modes of the dataset reconstruct take their place.
    """
    modes, most = model.modes, MOST_VALIDATED if model.network == "residual" else None
    if held_out:
        spread = held_out.held[evenly_spaced(len(held_out.held), most or len(held_out.held))]
        whole = LazyCoefficients(data, "train", data.basis.num_modes, progress, spread)
        rows, vertices = whole.truncate(modes), _Reconstructed(data.basis, whole)
    else:
        count = len(data.records("test"))
        chosen = np.arange(0, count, -(-count // (most or count)))
        if data.records("test")[0].vertices is None:
            raise ValueError(f"{data.path}: the test split has no original vertices to validate against")
        rows = LazyCoefficients(data, "test", modes, progress, chosen)
        vertices = LazyVertices(data, "test", chosen)
    on_gpu = _device_bytes()
    limit = TEST_BYTES if on_gpu is None else max(TEST_BYTES, TEST_SHARE * min(on_gpu, memory.free_bytes()[0]))
    large = 4 * sum(math.prod(each.shape) for each in (rows, vertices)) > limit
    if any(devices.max_over_processes(int(large))):  # all processes compute alike
        return rows, vertices
    every = range(len(rows))
    return coefficients.read(rows, every), coefficients.read(vertices, every)


class _Reconstructed:
    """Vertices that coefficients reconstruct, metres; read when indexed."""

    def __init__(self, basis: SpectralBasis, rows: LazyCoefficients):
        self._basis, self._rows = basis, rows
        self.shape = (len(rows), basis.num_vertices, 3)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | Int[np.ndarray, "mesh"]) -> Float[np.ndarray, "mesh vertex 3"]:
        return np.asarray(spectral.reconstruct(self._basis, self._rows[chosen]))
