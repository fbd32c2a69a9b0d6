"""Read untrusted JSON, .npy and .npz files: nothing in them is executed, and sizes are checked before memory is taken.

Headers of arrays are matched against a pattern, not evaluated. Only numbers and text are read, so pickle is never used.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

# Limits of what is read.
JSON_BYTES = 1 << 20  # size of a file, unless the caller allows more
JSON_VALUES = 1 << 21  # a value takes up to about 200 bytes of memory
JSON_DEPTH = 32  # levels of nesting
HEADER_BYTES = 10_000  # header of an array
MEMBERS = 1000  # arrays in an .npz
# The arrays of an .npz may unpack to FREE bytes, or to UNFOLD times the size of their file if that is more.
FREE = 256 << 20
UNFOLD = 16
CHUNK = 1 << 20  # bytes that are unpacked at once

_HEADER = re.compile(
    rb"\{ *'descr': *'([<>|=]?)([biufcSUOVMm])(\d{0,9})[^']*', *'fortran_order': *(True|False), *"
    rb"'shape': *\(((?: *\d{1,18}L? *,){0,32} *(?:\d{1,18}L? *)?)\),? *\}\s*"
)


def check_size(path: str | Path, max_bytes: int) -> int:
    """Return the size of a file in bytes. Raises ValueError when there is no such file or it is too large."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path}: {size:,} bytes, the limit is {max_bytes:,}")
    return size


def read_json(path: str | Path, kind: type = dict, max_bytes: int = JSON_BYTES) -> Any:
    """Read the dict (or other `kind`) in a JSON file. Raises ValueError naming the file for anything else."""
    check_size(path, max_bytes)
    return parse_json(Path(path).read_bytes(), str(path), kind)


def parse_json(content: bytes | str, where: str, kind: type = dict) -> Any:
    """Parse JSON that holds a dict (or other `kind`). Raises ValueError, which calls the text `where`."""
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > JSON_VALUES:
        raise ValueError(f"{where}: {values:,} values, the limit is {JSON_VALUES:,}")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not readable as JSON ({error})") from error
    depth, level = 0, [value]
    while level := [child for node in level for child in _children(node)]:
        depth += 1
        if depth > JSON_DEPTH:
            raise ValueError(f"{where}: nested deeper than {JSON_DEPTH} levels")
    if not isinstance(value, kind):
        raise ValueError(f"{where}: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _children(node: Any) -> Any:
    """The lists and dicts directly inside a value."""
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (child for child in inside if isinstance(child, list | dict))


def open_npy(path: str | Path) -> np.ndarray:
    """Open a .npy file, whatever its suffix, as a read-only memory map. Raises ValueError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            dtype, shape, order = _header(file)
            start, size = file.tell(), path.stat().st_size
        if start + math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{size - start:,} bytes, {dtype} {shape} takes {math.prod(shape) * dtype.itemsize:,}")
        return np.memmap(path, dtype, "r", start, shape, order)
    except (ValueError, TypeError, OSError, OverflowError) as error:
        raise ValueError(f"{path}: not a readable .npy file ({error})") from error


@contextmanager
def open_npz(path: str | Path, max_bytes: int) -> Iterator[Mapping[str, Any]]:
    """Open an .npz file as a mapping; each array is read when it is looked up.

    All arrays together may have at most `max_bytes`, and at most FREE bytes or UNFOLD times the size of the file.
    Raises ValueError, which does not name the file, for arrays that are missing, damaged, too large, or neither
    numbers nor text.
    """
    with Path(path).open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("not an .npz file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            members = sum(1 for _ in islice(re.finditer(rb"PK\x01\x02", content), MEMBERS + 1))
            size = len(content)
        if members > MEMBERS:
            raise ValueError(f"more than {MEMBERS:,} members")
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile raises many kinds of errors for a damaged archive
            raise ValueError(f"damaged or truncated: {error}") from error
        yield _Arrays(archive, min(max_bytes, max(FREE, UNFOLD * size)))


class _Arrays(Mapping):
    """The arrays of an archive by name, which together may take `max_bytes`."""

    def __init__(self, archive: zipfile.ZipFile, max_bytes: int):
        self._archive, self._max_bytes, self._left = archive, max_bytes, max_bytes
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in self._members:
                raise ValueError(f"two arrays {name}")
            self._members[name] = member

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._members:
            raise ValueError(f"no array {name}, available: {', '.join(list(self)[:20]) or 'none'}")
        member = self._members[name]
        self._left -= member.file_size
        if self._left < 0:
            raise ValueError(
                f"{self._max_bytes - self._left:,} bytes unpacked with array {name}, the limit is {self._max_bytes:,}"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others at once
            raise ValueError(f"array {name} has compression method {member.compress_type}, expected stored or deflated")
        try:
            with self._archive.open(member) as stream:
                return _read(cast(io.BufferedIOBase, stream), member.file_size)
        except Exception as error:  # as above
            raise ValueError(f"array {name}: {error}") from error


def _read(stream: io.BufferedIOBase, size: int) -> np.ndarray:
    """Read the array in a stream of `size` bytes."""
    dtype, shape, order = _header(stream)
    size -= stream.tell()
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{size:,} bytes, {dtype} {shape} takes {math.prod(shape) * dtype.itemsize:,}")
    content, done = np.empty(size, np.uint8), 0
    while chunk := stream.read(CHUNK):  # to the end of the member, where zipfile compares the checksum
        content[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done != size:
        raise ValueError(f"{done:,} bytes, expected {size:,}")
    return content.view(dtype).reshape(shape, order=order)


def _header(stream: io.BufferedIOBase) -> tuple[np.dtype, tuple[int, ...], Any]:
    """Read the dtype, shape and order (C or F) of the array that follows in the stream."""
    magic, major, _ = struct.unpack("<6s2B", _exactly(stream, 8))
    if magic != b"\x93NUMPY" or major not in (1, 2, 3):
        raise ValueError("not in the .npy format")
    (length,) = struct.unpack("<H" if major == 1 else "<I", _exactly(stream, 2 if major == 1 else 4))
    if length > HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, the limit is {HEADER_BYTES:,}")
    header = _exactly(stream, length)
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError(f"its header is not that of a plain array: {header[:80].decode('latin1')!r}")
    ends, kind, width, fortran, shape = (part.decode() for part in match.groups())
    if kind == "O":
        raise ValueError("holds Python objects, which are never read")
    dtype = np.dtype(f"{ends}{kind}{width}")
    if kind in "VMm" or dtype.itemsize == 0:
        raise ValueError(f"holds {dtype}, only numbers and text are read")
    return dtype, tuple(map(int, re.findall(r"\d+", shape))), "F" if fortran == "True" else "C"


def _exactly(stream: io.BufferedIOBase, count: int) -> bytes:
    """Read `count` bytes of a stream. Raises ValueError when it ends earlier."""
    content = stream.read(count)
    if len(content) != count:
        raise ValueError(f"{len(content)} bytes, expected {count} (truncated)")
    return content
