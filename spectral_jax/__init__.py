"""Learning on registered 3D meshes in the spectral domain, in JAX and Flax.

The public names load when first used, so importing the package is cheap.
docs/development/architecture.md describes the folders.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # what type checkers and editors see; at run time these load when first used
    from spectral_jax.basis.spectral import SpectralBasis as SpectralBasis
    from spectral_jax.basis.spectral import project as project
    from spectral_jax.basis.spectral import reconstruct as reconstruct
    from spectral_jax.data.open import open_data as open_data
    from spectral_jax.fitting.fit import fit_scan as fit_scan
    from spectral_jax.geometry.mesh import Mesh as Mesh
    from spectral_jax.geometry.mesh import read_mesh as read_mesh
    from spectral_jax.geometry.mesh import write_mesh as write_mesh
    from spectral_jax.geometry.show import show as show
    from spectral_jax.network.autoencoder import SpectralAutoencoder as SpectralAutoencoder
    from spectral_jax.network.codec import Codec as Codec
    from spectral_jax.network.config import ModelConfig as ModelConfig
    from spectral_jax.runs.evaluate import evaluate as evaluate
    from spectral_jax.runs.run import Run as Run
    from spectral_jax.runs.run import load_run as load_run
    from spectral_jax.runs.train import train as train
    from spectral_jax.training.batches import FitData as FitData
    from spectral_jax.training.config import TrainConfig as TrainConfig
    from spectral_jax.training.loop import fit as fit

_HOMES = {
    "Mesh": "geometry.mesh",
    "read_mesh": "geometry.mesh",
    "write_mesh": "geometry.mesh",
    "show": "geometry.show",
    "SpectralBasis": "basis.spectral",
    "project": "basis.spectral",
    "reconstruct": "basis.spectral",
    "ModelConfig": "network.config",
    "SpectralAutoencoder": "network.autoencoder",
    "Codec": "network.codec",
    "TrainConfig": "training.config",
    "FitData": "training.batches",
    "fit": "training.loop",
    "fit_scan": "fitting.fit",
    "Run": "runs.run",
    "load_run": "runs.run",
    "train": "runs.train",
    "open_data": "data.open",
    "evaluate": "runs.evaluate",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Load a public name's module when the name is first used, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
