"""Lock a folder for one process. The system frees the lock when the process ends, even if it is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a folder, which is created if missing. Re-entrant.

    Raises ValueError with the message `busy` when another process holds it.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.absolute() / LOCK_FILE, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(busy) from None
    try:
        yield
    finally:
        lock.release()
