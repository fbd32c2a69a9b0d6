"""What a torch.save file holds besides tensors and plain containers, kept as inert records."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

LINES = 20_000  # of a description
LEVELS = 64  # of nesting
TEXT = 200  # characters of a value
SHORT = 16  # items of a list that is told in one line


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """A function, class or object of which only what the file says is known. It is never imported, called or built.

    Attributes:
      name: the full name of the function or class, such as "pathlib.PosixPath".
      arguments: what it is called with: a tuple; (record, arguments) for the call of a record that is itself a call;
        None for the bare name.
      state: the attributes that the file gives the object: mostly a dict.
      items: a list of its items, or a dict of its keys and values, if it is a container.
    """

    name: str
    arguments: Any = None
    state: Any = None
    items: list | dict | None = None

    def __repr__(self) -> str:  # short, as what is inside may be shared many times or lead back here
        return f"<{self.name}>"


def describe(tree: Any) -> Iterator[str]:
    """What a file holds, in lines: each tensor's dtype and shape, the rest as text. Shared values are told once."""
    lines = _lines(tree, "", 0, set())
    yield from islice(lines, LINES)
    if next(lines, None) is not None:
        yield f"... and more, {LINES:,} lines are shown"


def _lines(value: Any, name: str, level: int, seen: set[int]) -> Iterator[str]:
    """The line of a value, after its name, and the lines of what is inside it."""
    start = "  " * level + (f"{_text(name)}: " if name else "")
    inside = _inside(value)
    if id(value) in seen and inside:
        yield f"{start}{_headline(value)}, as above"
        return
    seen.add(id(value))
    yield f"{start}{_headline(value)}"
    if inside and level == LEVELS:
        yield f"{start}  ..."
    elif inside:
        for key, child in inside:
            yield from _lines(child, key, level + 1, seen)


def _inside(value: Any) -> list[tuple[str, Any]]:
    """The names and values inside a value that have lines of their own."""
    if isinstance(value, Record):
        state = _inside(value.state) if isinstance(value.state, dict) else [("state", value.state)]
        parts = [("arguments", value.arguments or None), ("items", value.items)]
        return [part for part in [*parts, *state] if part[1] is not None]
    if isinstance(value, dict):
        return [(_key(key), child) for key, child in value.items()]
    if isinstance(value, list | tuple) and not _is_short(value):
        return [(f"[{i}]", child) for i, child in enumerate(value)]
    return []


def _is_short(value: list | tuple) -> bool:
    return len(value) <= SHORT and all(item is None or isinstance(item, int | float | str) for item in value)


def _headline(value: Any) -> str:
    """A value in one line, without what is inside it."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}" + (f" = {value}" if value.ndim == 0 else "")
    if isinstance(value, Record):
        return _text(value.name + ("" if value.arguments is None else " object"))
    if isinstance(value, dict) or (isinstance(value, list | tuple) and not _is_short(value)):
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, set | frozenset):
        return _text(f"{type(value).__name__} of {', '.join(map(_key, islice(value, SHORT)))}")
    if isinstance(value, list | tuple):
        text = ", ".join(map(_headline, value))
        return _text(f"[{text}]" if isinstance(value, list) else f"({text})")
    if isinstance(value, int) and value.bit_length() > 512:
        return f"an integer of {value.bit_length():,} bits"
    return _text(repr(value[: TEXT + 1] if isinstance(value, str | bytes) else value))


def _key(key: Any) -> str:
    return key if isinstance(key, str) else f"{key!r:.{TEXT}}"


def _text(text: str) -> str:
    """At most TEXT characters, all printable."""
    text = text if len(text) <= TEXT else f"{text[: TEXT - 3]}..."
    return "".join(c if c.isprintable() else "?" for c in text)
