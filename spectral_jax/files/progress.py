"""How long work tells how far it is: one protocol for everything that takes seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Progress(Protocol):
    """Watches work and may end it early. The command line shows bars; the library is silent unless given one."""

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        """Called often with how much of a task is done, of how much where that is known; `note` is for people."""

    def should_stop(self) -> bool:
        """Whether work that can stop early and keep what it has, such as training, is to do so."""
        ...


class Silent:
    """Shows nothing and never stops anything."""

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        pass

    def should_stop(self) -> bool:
        return False


SILENT = Silent()


def track(items: Iterable[T], progress: Progress, task: str) -> Iterator[T]:
    """The items one after the other, each counted as done when the next is asked for."""
    total = len(items) if isinstance(items, Sized) else None
    progress.update(task, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(task, done, total)
