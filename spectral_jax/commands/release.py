"""`spectral-jax export` and `spectral-jax import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spectral_jax.commands.dataset import data_source, open_data


@dataclass(frozen=True)
class Export:
    """Write a trained network as a single file: parameters by name, options, a mark of its basis; no pickle."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write: .npz, or .safetensors where that package is installed."""
    checkpoint: Literal["last", "best"] = "last"
    """The newest checkpoint, or the one with the lowest validation error."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.runs import bundle, run

        if self.file.exists() and not self.overwrite:
            raise ValueError(f"{self.file} exists already; --overwrite replaces it")
        loaded = run.load_run(self.run, self.checkpoint)
        bundle.save_release(self.file, loaded)
        size = self.file.stat().st_size
        print(f"{self.file}: epoch {loaded.epoch} of {self.run}, {size / 1e6:.1f} MB")


@dataclass(frozen=True)
class ImportRelease:
    """Make a run folder of a single-file network."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz or .safetensors file."""
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder to make."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """A dataset: its basis goes into the run folder, if it is the one that the network was trained on."""

    def __call__(self) -> None:
        from spectral_jax.runs import bundle

        data = open_data(self.data) if self.data else None
        source = data_source(self.data, data) if data and self.data else ""
        imported = bundle.import_release(self.file, self.run, data and data.basis, source)
        model = imported.model
        print(f"{self.run}: epoch {imported.epoch}, {model.modes:,} modes, latent size {model.latent_size}")
        if data is None:
            print("no basis: the folder cannot be evaluated before --data gives it one")
