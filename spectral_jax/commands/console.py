"""What every command shows on the terminal: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from spectral_jax.files import progress
from spectral_jax.files.atomic import check_free as check_free  # the commands import it from here

T = TypeVar("T")

console = Console(stderr=True)


class Bars:
    """Shows one progress bar per task; shows nothing unless standard error is a terminal."""

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
        """Show that `done` of `total` are done; a new task gets a new bar."""
        if task not in self.tasks:
            self.tasks[task] = self._bars.add_task(task, total=None, note="")
        self._bars.update(self.tasks[task], completed=done, total=total, note=note)

    def should_stop(self) -> bool:
        """Never: Ctrl-C raises KeyboardInterrupt."""
        return False


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Shows each warning as one line on standard error."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: console.print(
            f"warning: {message}", markup=False, highlight=False, soft_wrap=True
        )
        yield


def track(items: Iterable[T], description: str) -> Iterator[T]:
    """The items, with a progress bar."""
    with Bars() as bars:
        yield from progress.track(items, bars, description)
