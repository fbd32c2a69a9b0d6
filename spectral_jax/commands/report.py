"""`spectral-jax report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from spectral_jax.commands.console import Bars, check_free, track
from spectral_jax.commands.network import open_network
from spectral_jax.files import atomic


@dataclass(frozen=True)
class Report:
    """Show what a run has learned on one HTML page, which opens offline: errors, meshes, latents, training."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    data: str | None = None
    """A dataset (default: the one the run was trained on)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The .html page to write (default: report.html in the run folder, where a new one replaces the old)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.bodies import regions
        from spectral_jax.data import dataset
        from spectral_jax.files import safe_files
        from spectral_jax.report import document, measurements
        from spectral_jax.runs import logs, provenance
        from spectral_jax.runs.run import CONFIG_FILE

        out = self.out or self.run / "report.html"
        if out.suffix != ".html":
            raise ValueError(f"--out writes an .html page, not {out}")
        check_free(out, self.overwrite or self.out is None)
        log = logs.read_log(self.run)
        if not log and (self.run / logs.LOG_FILE).exists():  # converted and imported runs have none
            raise ValueError(f"{self.run / logs.LOG_FILE}: no epoch in it yet")
        network = open_network(self.run, self.data)
        data, modes = network.data, network.run.config.model.modes
        with Bars() as bars:
            train, test = (dataset.read_split(data, split, modes, progress=bars) for split in ("train", "test"))
        region_of = regions.body_regions(data.basis, data.metadata["source"])
        names = [] if region_of is None else list(regions.REGIONS)
        findings = measurements.measure(network.run, train, test, region_of, track)
        config = safe_files.read_json(self.run / CONFIG_FILE)
        made = provenance.record(data.path)
        atomic.write_text(out, document.page(network.run, data, test.identities, names, findings, log, config, made))
        print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
