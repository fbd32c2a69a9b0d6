"""The logs of a run: log.jsonl, one line for each epoch, and TensorBoard event files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from spectral_jax.files import atomic, safe_files

LOG_FILE = "log.jsonl"
EVENTS_FOLDER = "tb_logs"
STEPS_FOLDER = "steps"
LOG_BYTES = 64 << 20  # about 250,000 epochs


class RunLog:
    """Writes each epoch's figures to both logs. A run resumed after `epoch` epochs drops the lines of later ones."""

    def __init__(self, run_folder: Path, epoch: int):
        path = run_folder / LOG_FILE
        kept = [line for line in read_log(run_folder) if line["epoch"] <= epoch]
        atomic.write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._folder = run_folder / EVENTS_FOLDER
        self._events = _summary_writer()(str(self._folder), purge_step=epoch + 1, write_to_disk=True)
        self._steps = None  # in files of their own, as they count otherwise

    def write(self, figures: dict[int, dict[str, float]]) -> None:
        """Log the figures by name of each epoch; epochs count from 1."""
        for epoch, values in figures.items():
            self._file.write(json.dumps({"epoch": epoch, **values}) + "\n")
            for name, value in values.items():
                self._events.add_scalar(name, value, epoch)

    def write_step(self, step: Any, loss: Any) -> None:
        """Log the loss of a step for TensorBoard; steps count from 1 over all epochs."""
        if self._steps is None:
            self._steps = _summary_writer()(str(self._folder / STEPS_FOLDER), purge_step=int(step), write_to_disk=True)
        self._steps.add_scalar("spectral_train_loss of a step", float(loss), int(step))

    def show(self, epoch: int, latents: np.ndarray, picture: np.ndarray | None) -> None:
        """Show a histogram of each column of latents (mesh, latent), and a picture (height, width, 3) if given."""
        for i, values in enumerate(latents.T):
            self._events.add_histogram(f"latent/{i:03d}", values, epoch)
        if picture is not None:
            self._events.add_image("reconstructions", picture, epoch, dataformats="HWC")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_):
        self._file.close()
        self._events.close()
        if self._steps is not None:
            self._steps.close()


def _summary_writer() -> type:
    """tensorboardX's writer, imported without PyTorch, which its import would load where installed (three seconds).

    The entry None in sys.modules makes `import torch` raise ImportError; tensorboardX has no option for that.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules["torch"]
    return SummaryWriter


def read_log(run_folder: str | Path) -> list[dict]:
    """Read a run's log.jsonl, oldest epoch first, without a last line that a crash cut short.

    Raises ValueError naming the line when it is not a log's.
    """
    path, records = Path(run_folder) / LOG_FILE, []
    if path.is_file():
        safe_files.check_size(path, LOG_BYTES)
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            records.append(safe_files.parse_json(line, f"{path}: line {number}"))
            if type(records[-1].get("epoch")) is not int:
                raise ValueError(f"{path}: line {number}: epoch is {records[-1].get('epoch')!r}, expected an int")
    return records
