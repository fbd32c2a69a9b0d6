"""What every command shows on the terminal: messages and progress on standard error, results on standard output."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import track as rich_track

console = Console(stderr=True)


def track(iterable: Iterable, description: str) -> Iterable:
    """The same iterable with a rich progress bar."""
    return rich_track(iterable, description, console=console, transient=True, disable=not console.is_terminal)
