"""`spectral-jax export` and `spectral-jax import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spectral_jax.commands.console import Bars, check_free
from spectral_jax.commands.dataset import data_source, open_data
from spectral_jax.commands.network import Checkpoint, open_run


@dataclass(frozen=True)
class Export:
    """Export a trained network as one file, for this package, for other programs, or as shapes with sliders.

    .npz or .safetensors: parameters by name, options and a signature of the basis, which `import` reads. .onnx: the
    decoder or the encoder with the basis, which runs without Python. .glb: the mean mesh, with sliders in Blender and
    web viewers that move it along the leading directions of the latents.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or the word demo: the network that comes with the package."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write: .npz, .glb, or .safetensors or .onnx if the package of that name is installed."""
    part: Annotated[Literal["decoder", "encoder"] | None, tyro.conf.arg(metavar="{decoder,encoder}")] = None
    """For .onnx: latents to vertices, or vertices to latents (default: decoder)."""
    latents: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """For .glb: number of directions, each with two sliders (default: 10, or all where a latent has fewer numbers)."""
    data: str | None = None
    """For .glb: the dataset with the train split (default: the one the run was trained on)."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.runs import bundle, onnx_export, run, shapes

        kind = self.file.suffix
        if kind not in (".npz", ".safetensors", ".onnx", ".glb"):
            known = "a release is a .npz or .safetensors file; .onnx and .glb are for other programs"
            raise ValueError(f"{self.file}: {known}")
        for option, its_kind in (("part", ".onnx"), ("latents", ".glb"), ("data", ".glb")):
            if (value := getattr(self, option)) is not None and kind != its_kind:
                raise ValueError(f"--{option} {value} is for {its_kind} files, not for {self.file}")
        check_free(self.file, self.overwrite)
        what = ""
        if kind == ".glb":
            opened = open_run(self.run, self.data, self.checkpoint)
            with Bars() as bars:
                what = f"{shapes.write(self.file, opened, self.latents, bars)} directions, "
            loaded = opened.run
        else:
            loaded = run.load_run(self.run, self.checkpoint)
            if kind == ".onnx":
                part = self.part or "decoder"
                onnx_export.save(self.file, loaded, part)
                what = f"{part}, "
            else:
                bundle.save_release(self.file, loaded)
        print(f"{self.file}: {what}epoch {loaded.epoch} of {self.run}, {self.file.stat().st_size / 1e6:.1f} MB")


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
