"""What every command shows on the terminal: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import track as rich_track

console = Console(stderr=True)


def track(iterable: Iterable, description: str) -> Iterable:
    """The same iterable with a rich progress bar."""
    return rich_track(iterable, description, console=console, transient=True, disable=not console.is_terminal)


def check_free(out: Path, overwrite: bool) -> None:
    """Raise ValueError when there is such a file that is not to be replaced."""
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; --overwrite replaces it")


@contextmanager
def building(items: str) -> Iterator[tuple[Callable[[str, int, int, int], None], Callable[[int], None]]]:
    """What a dataset build tells how far it is and how many modes are computed, shown as progress bars.

    `items` is what its sources are made of.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[line]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        basis = bar.add_task("computing modes", total=None, line="", visible=False)
        tasks: dict[str, tuple[TaskID, float, int]] = {}

        def watch(split: str, item: int, count: int, meshes: int) -> None:
            bar.update(basis, visible=False)
            if split not in tasks:
                tasks[split] = bar.add_task(f"building {split}", line=""), time.monotonic(), meshes
            task, start, before = tasks[split]
            rate = (meshes - before) / max(time.monotonic() - start, 1e-3)
            line = f"{item + 1:,} of {count:,} {items}  {meshes:,} meshes  {rate:,.0f} meshes/s"
            bar.update(task, total=count, completed=item, line=line)

        yield watch, lambda done: bar.update(basis, visible=True, line=f"{done:,} modes")


class Bars:
    """A progress bar for each task that work tells of; where the terminal is none, nothing is shown."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), TimeRemainingColumn(compact=True),
        )  # fmt: skip
        self._bars = RichProgress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        if task not in self.tasks:
            self.tasks[task] = self._bars.add_task(task, note="")
        self._bars.update(self.tasks[task], completed=done, total=total, note=note)

    def should_stop(self) -> bool:
        return False


@contextmanager
def counting(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar for something that tells how many of `total` it has done."""
    with RichProgress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)
