"""One protocol by which long work reports its progress and asks whether to stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Progress(Protocol):
    """Receives progress and may end work early. The command line shows bars; the library is silent by default."""

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        """Report that `done` of `total` (None if unknown) items are done; `note` is shown beside the count."""

    def should_stop(self) -> bool:
        """Whether work that can stop early and keep its results, such as training, should stop now."""
        ...


class Silent:
    """Shows nothing and never asks to stop."""

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        pass

    def should_stop(self) -> bool:
        return False


SILENT = Silent()


def track(items: Iterable[T], progress: Progress, task: str) -> Iterator[T]:
    """Yield the items; each counts as done when the next one is requested."""
    total = len(items) if isinstance(items, Sized) else None
    progress.update(task, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(task, done, total)
