"""`spectral-jax export` and `spectral-jax import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from spectral_jax.commands.console import check_free
from spectral_jax.commands.dataset import data_source, open_data
from spectral_jax.commands.network import Checkpoint


@dataclass(frozen=True)
class Export:
    """Export a trained network as a single file: parameters by name, options, and a signature of its basis."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write: .npz, or .safetensors if that package is installed."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.runs import bundle, run

        check_free(self.file, self.overwrite)
        loaded = run.load_run(self.run, self.checkpoint)
        bundle.save_release(self.file, loaded)
        size = self.file.stat().st_size
        print(f"{self.file}: epoch {loaded.epoch} of {self.run}, {size / 1e6:.1f} MB")


@dataclass(frozen=True)
class ImportRelease:
    """Make a run folder from a single-file network."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz or .safetensors file."""
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder to make."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """A dataset with the basis that the network was trained on. The run folder gets its basis."""

    def __call__(self) -> None:
        from spectral_jax.runs import bundle

        data = open_data(self.data) if self.data else None
        source = data_source(self.data, data) if data and self.data else ""
        imported = bundle.import_release(self.file, self.run, data and data.basis, source)
        model = imported.model
        print(f"{self.run}: epoch {imported.epoch}, {model.modes:,} modes, latent size {model.latent_size}")
        if data is None:
            print("no basis: the folder cannot be evaluated; import with --data to add one")
