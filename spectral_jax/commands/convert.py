"""`spectral-jax convert`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, console
from spectral_jax.commands.dataset import data_source, open_data
from spectral_jax.files import atomic
from spectral_jax.network.config import Activation, Pooling

if TYPE_CHECKING:
    from spectral_jax.pytorch.published import Published
    from spectral_jax.runs.run import RunConfig


@dataclass(frozen=True)
class Convert:
    """Convert a PyTorch checkpoint to a run folder, or a run folder to such a checkpoint, or show what is in one."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A .ckpt, .pth or .safetensors file, or a run folder."""
    target: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")] = None
    """The run folder to make, or the .ckpt file to write, with infos.json beside it."""
    show: bool = False
    """Print what is in the file SOURCE, running nothing in it: tensors with their shapes, the rest as text."""
    infos: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The options of a published checkpoint (default: infos.json beside it, else inferred from the weights)."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="KEY")] = None
    """Which weights to take if several sets fit; the error lists them."""
    ignore: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PATTERN")] = ()
    """Leave out tensors with such names, such as 'criterion.*'. May be given several times."""
    activation: Activation | None = None
    """The activation of a checkpoint's network, which weights do not tell (default: that of infos.json, else ELU)."""
    pooling: Pooling | None = None
    """Where its encoder pools, which weights do not tell (default: that of infos.json, else after-activation)."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """A dataset. The run folder gets its basis, and --verify uses its test split."""
    verify: bool = False
    """Compare with PyTorch on the same meshes, random ones without --data. The exit code is 1 if anything differs."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the comparison to this JSON file."""
    meshes: int = 16
    """Number of meshes that --verify compares."""
    against: Annotated[Path | None, tyro.conf.arg(metavar="CHECKOUT")] = None
    """Compare with the published code itself: a clone of https://github.com/MEPP-team/SAE, run in its own process."""
    python: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """The Python interpreter that runs CHECKOUT; it needs PyTorch (default: this one)."""
    steps: int = 0
    """Also train both for so many steps, by the published recipe, and compare what comes of it. Goes with --against."""

    def __call__(self) -> None:
        from spectral_jax.pytorch import lightning, published

        if self.against and not self.verify:
            raise ValueError("--against goes with --verify")
        if self.show:
            return self._show()
        exporting, target = self.source.is_dir(), self._target()
        self._check(exporting, target)
        code = published.find(self.against, self.python or sys.executable) if self.against else None
        data = open_data(self.data) if self.data else None
        if self.verify and data and ("test" not in data.splits or data.splits["test"][0].vertices is None):
            raise ValueError(f"{data.path}: no test split with original vertices to compare on")
        if exporting:
            meshes = self._meshes(self.source, data) if self.verify else None
            for warning in lightning.export_checkpoint(self.source, target):
                console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
            print(f"{target}: checkpoint for PyTorch, options in {target.with_name('infos.json')}")
            folder, file = self.source, target
        else:
            self._import(target, data)
            meshes = self._meshes(target, data) if self.verify else None
            folder, file = target, self.source
        if meshes:
            self._verify(folder, file, *meshes, code)

    def _show(self) -> None:
        """Print what is in the file."""
        from spectral_jax.files import torch_file

        others = {"TARGET": self.target, "--infos": self.infos, "--data": self.data, "--json": self.json}
        others |= {"--verify": self.verify, "--weights": self.weights, "--ignore": self.ignore}
        others |= {"--activation": self.activation, "--pooling": self.pooling}
        if given := [name for name, value in others.items() if value]:
            raise ValueError(f"--show takes one file and no {', '.join(given)}")
        if not self.source.is_file():
            raise ValueError(f"{self.source}: no such file")
        for line in torch_file.describe(torch_file.load(self.source)):
            print(line)

    def _target(self) -> Path:
        """Raise ValueError when the source or the target is missing."""
        if not self.source.exists():
            raise ValueError(f"{self.source}: no such checkpoint or run folder")
        if self.target is None:
            raise ValueError(f"{self.source}: no TARGET to convert it to (--show prints what is in it)")
        return self.target

    def _check(self, exporting: bool, target: Path) -> None:
        """Raise ValueError for options that do not fit together, before any work."""
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ValueError(f"{target} exists already")
        if exporting and target.suffix != ".ckpt":
            raise ValueError(f"{target}: a run folder becomes a .ckpt file, such as {target / 'last.ckpt'}")
        if exporting and (self.weights or self.ignore):
            raise ValueError("--weights and --ignore go with a checkpoint, not with a run folder")
        if exporting and (self.activation or self.pooling):
            raise ValueError("--activation and --pooling go with a checkpoint; a run folder has its own options")
        if exporting and self.infos:
            raise ValueError("--infos goes with a checkpoint; a run folder has its own options")
        if exporting and self.data and not self.verify:
            raise ValueError("--data goes with --verify when the source is a run folder")
        if self.json and not self.verify:
            raise ValueError("--json goes with --verify")
        if not self.against and (self.steps or self.python):
            raise ValueError("--steps and --python go with --against")
        if self.steps < 0:
            raise ValueError(f"--steps must be at least 0, not {self.steps}")
        if self.meshes < 1:
            raise ValueError(f"--meshes must be at least 1, not {self.meshes}")

    def _import(self, target: Path, data) -> None:
        """Make the run folder, with the basis of the data if they are given."""
        from spectral_jax.pytorch import lightning

        basis, source = (data.basis, data_source(self.data, data)) if data and self.data else (None, "")
        told = {name: value for name in ("activation", "pooling") if (value := getattr(self, name))}
        for line in lightning.import_checkpoint(
            self.source, target, self.infos, basis, source, self.weights, self.ignore, told
        ):
            print(line)
        print(f"{target}: run folder")

    def _meshes(self, folder: Path, data) -> tuple[tuple, str]:
        """Coefficients, modes and original vertices (if any) to compare on, and a description of them."""
        import numpy as np

        from spectral_jax.basis import spectral
        from spectral_jax.geometry.sampling import evenly_spaced
        from spectral_jax.pytorch import verify
        from spectral_jax.runs import run

        config, basis_file = run.load_config(folder).model, folder / run.BASIS_FILE
        own = spectral.load(basis_file) if basis_file.is_file() else None
        if data is None:
            modes = verify.random_modes(config) if own is None else own.modes[:, : config.modes]
            return (verify.random_coefficients(config, self.meshes), modes), f"{self.meshes} random meshes"
        if own:
            spectral.check_same(own, data.basis, (str(folder), str(data.path)))
        if data.basis.num_modes < config.modes:
            raise ValueError(f"{data.path}: has {data.basis.num_modes} modes, the network {config.modes}")
        split = data.splits["test"]
        chosen = evenly_spaced(len(split), self.meshes)
        examples = [split[index] for index in chosen]
        coefficients = np.stack([example.coefficients[: config.modes] for example in examples])
        vertices = np.stack([example.vertices for example in examples])
        modes = np.asarray(data.basis.modes[:, : config.modes])
        return (coefficients, modes, vertices), f"{len(chosen)} meshes of {self.data}"

    def _verify(self, folder: Path, file: Path, meshes: tuple, described: str, code: Published | None) -> None:
        """Compare the run folder with the checkpoint file, both as they are on disk."""
        from spectral_jax.pytorch import lightning, verify
        from spectral_jax.runs import checkpoint, run

        config = run.load_config(folder)
        params = checkpoint.restore(folder / "last", config.model, config.train).state.params
        _, weights, *_ = lightning.read_weights(file, self.weights, self.ignore)
        rows = [verify.verify_parameters(weights, params)]
        compared, title = self._compare(config, weights, params, meshes, code)
        title, rows = f"{title}, {described}", rows + compared
        print_rows(rows, title)
        if self.json:
            atomic.write_json(self.json, record(rows, title))
        failed = sum(not row.passed for row in rows)
        print(f"{failed} of {len(rows)} comparisons failed" if failed else f"all {len(rows)} comparisons passed")
        if failed:
            raise SystemExit(1)

    def _compare(self, config: RunConfig, weights, params, meshes: tuple, code: Published | None) -> tuple[list, str]:
        """The rows of the comparison, and what was compared: with the published code, with torch, or without."""
        from spectral_jax.pytorch import published, verify

        if code:
            options = weights, params, *meshes
            with Bars() as bars:
                rows = published.verify_published(
                    code, config.model, config.train, *options, steps=self.steps, progress=bars
                )
            training = f", {self.steps} steps of training" if self.steps else ""
            return rows, f"JAX against {self.against} ({code.versions}){training}"
        try:
            import torch
        except ImportError:
            line = "torch is not installed: pip install 'spectral-jax[torch]' for the comparison with PyTorch"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            return verify.verify_precision(config.model, params, *meshes), "JAX in float32 against float64"
        rows = verify.verify(config.model, weights, params, *meshes)
        return rows, f"JAX against PyTorch {torch.__version__}"


def print_rows(rows, title: str) -> None:
    """Print the comparison as a table."""
    table = Table(title=title)
    for name in ("quantity", "dtype", "absolute", "relative", "allowed", ""):
        table.add_column(name, justify="right" if name in ("absolute", "relative", "allowed") else "left")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        allowed = "none" if not row.tolerance else f"{row.tolerance:.0e}{' mm' if row.absolute else ''}"
        verdict = "pass" if row.passed else "[bold red]FAIL[/]"
        end = following is not None and (following.dtype != row.dtype or row.quantity == "parameters")
        table.add_row(
            row.quantity, row.dtype, f"{row.max_abs:.1e}", f"{row.max_rel:.1e}", allowed, verdict, end_section=end
        )
    Console().print(table)


def record(rows, title: str) -> dict:
    """The comparison as values for JSON; numbers that are not finite become null."""

    def plain(value):
        return None if isinstance(value, float) and not math.isfinite(value) else value

    values = [{name: plain(value) for name, value in row._asdict().items()} for row in rows]
    return {"title": title, "passed": all(row.passed for row in rows), "rows": values}
