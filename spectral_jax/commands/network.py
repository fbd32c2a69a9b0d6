"""A run opened with the dataset that a DATA argument names, as most commands begin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spectral_jax.commands.dataset import open_data

if TYPE_CHECKING:
    from spectral_jax.runs.opened import OpenedRun


def open_run(folder: Path, source: str | None, which: Literal["last", "best"] = "last") -> OpenedRun:
    """Open a run folder and its dataset. Raises ValueError as `spectral_jax.runs.opened.open_run` does."""
    from spectral_jax.runs import opened, run

    loaded = run.load_run(folder, which)
    return opened.open_run(loaded, open_data(source or opened.data_of(loaded)))
