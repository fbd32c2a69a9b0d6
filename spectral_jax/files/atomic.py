"""Write files atomically: a reader sees the old file or the complete new one, never a part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to. It replaces `path` on success and is removed after a failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON with an indent of one space, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def check_free(path: Path, overwrite: bool) -> None:
    """Raise ValueError if the path exists, unless it may be overwritten."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; --overwrite replaces it")
