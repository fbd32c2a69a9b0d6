"""`spectral-jax report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from spectral_jax.commands.console import Bars, check_free
from spectral_jax.commands.network import open_run
from spectral_jax.files import atomic


@dataclass(frozen=True)
class Report:
    """Write what a run has learned to one HTML page that opens offline: errors, meshes, latents, training curves."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """The dataset (default: the one the run was trained on)."""
    compare: tuple[Path, ...] = ()
    """Other run folders, whose errors (and measures) on the same meshes stand beside those of the first."""
    measures: bool = False
    """Also measure the networks and PCA as shape models: compactness, generalisation and specificity."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The .html file to write (default: report.html in the run folder, which is replaced)."""
    overwrite: bool = False
    """Replace the file given with --out if it exists."""

    def __call__(self) -> None:
        from spectral_jax.bodies import regions
        from spectral_jax.data.coefficients import LazySplit
        from spectral_jax.files import safe_files
        from spectral_jax.report import document, measurements
        from spectral_jax.runs import evaluate, logs, opened, provenance, shape_model
        from spectral_jax.runs.run import CONFIG_FILE

        out = self.out or self.run / "report.html"
        if out.suffix != ".html":
            raise ValueError(f"--out {out}: expected a name that ends in .html")
        check_free(out, self.overwrite or self.out is None)
        log = logs.read_log(self.run)
        if not log and (self.run / logs.LOG_FILE).exists():  # converted and imported runs have no file
            raise ValueError(f"{self.run / logs.LOG_FILE}: no epoch in it yet")
        first = open_run(self.run, self.data)
        config = safe_files.read_json(self.run / CONFIG_FILE)
        data = first.data
        region_of = regions.body_regions(data.basis, data.metadata["source"])
        with Bars() as bars:
            runs = [first, *(opened.open_run(run, data, progress=bars) for run in self.compare)]
            train, test = (LazySplit(data, name, first.num_modes, bars) for name in ("train", "test"))
            found = measurements.measure_run(first.run, train, test, region_of, bars)
            others = [(each.run, evaluate.evaluate(each.run, data, progress=bars, baselines=data)) for each in runs[1:]]
            try:
                measured = [shape_model.measure_run(each, progress=bars) for each in runs] if self.measures else []
            except ValueError as error:  # too few meshes, or none of an identity that is new: the page says so
                measured = str(error)
        report = document.Report(
            run=first.run,
            data=data,
            identities=test.identities,
            regions=[] if region_of is None else list(regions.REGIONS),
            found=found,
            log=log,
            config=config,
            provenance=provenance.record(data.path),
            others=others,
            shape_models=measured,
        )
        atomic.write_text(out, document.page(report))
        print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
