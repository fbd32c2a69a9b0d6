"""Learning on registered 3D meshes in the spectral domain, in JAX and Flax."""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Mesh": "mesh",
    "read_mesh": "mesh",
    "write_mesh": "mesh",
    "SpectralBasis": "basis",
    "project": "basis",
    "reconstruct": "basis",
    "ModelConfig": "model",
    "SpectralAutoencoder": "model",
    "TrainConfig": "train",
    "fit": "fitting",
    "Run": "run",
    "load_run": "run",
    "Codec": "inference",
    "open_data": "dataset",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Modules load when first used, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_HOMES])
