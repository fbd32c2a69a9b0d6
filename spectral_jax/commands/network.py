"""A run opened with its dataset, as most commands begin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from spectral_jax.commands.console import Bars

if TYPE_CHECKING:
    from spectral_jax.runs.opened import OpenedRun

Checkpoint = Annotated[Literal["last", "best"] | None, tyro.conf.arg(metavar="{last,best}")]


def open_run(folder: Path, data: str | None, which: Checkpoint = None) -> OpenedRun:
    """Open a run folder with a DATA argument (default: the dataset it was trained on), with progress bars.

    Raises ValueError as `spectral_jax.runs.opened.open_run` does.
    """
    from spectral_jax.runs import opened

    with Bars() as bars:
        return opened.open_run(folder, data, which, bars)
