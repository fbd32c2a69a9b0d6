"""JSON, .npy and .npz files of anyone: nothing in them is run, and sizes they tell are checked before they are used.

Headers of arrays are matched, not evaluated, and only numbers and text are read, so pickle is out of reach.
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

JSON_BYTES = 1 << 20  # of a file, unless its reader expects more
JSON_VALUES = 1 << 21  # a value takes up to some 200 bytes of memory
JSON_DEPTH = 32
HEADER_BYTES = 10_000  # of an array
MEMBERS = 1000  # of an .npz
FREE, UNFOLD = 256 << 20, 16  # arrays may have so many bytes, or so many times those of their file
CHUNK = 1 << 20

_HEADER = re.compile(
    rb"\{ *'descr': *'([<>|=]?)([biufcSUOVMm])(\d{0,9})[^']*', *'fortran_order': *(True|False), *"
    rb"'shape': *\(((?: *\d{1,18}L? *,){0,32} *(?:\d{1,18}L? *)?)\),? *\}\s*"
)


def check_size(path: str | Path, max_bytes: int) -> int:
    """The size of a file in bytes. Raises ValueError when it is none or too large."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    size = path.stat().st_size
    if size > max_bytes:
        raise ValueError(f"{path}: {size:,} bytes, at most {max_bytes:,} are read")
    return size


def read_json(path: str | Path, kind: type = dict, max_bytes: int = JSON_BYTES) -> Any:
    """The dict (or other `kind`) in a JSON file. Raises ValueError naming the file for anything else."""
    check_size(path, max_bytes)
    return parse_json(Path(path).read_bytes(), str(path), kind)


def parse_json(content: bytes | str, where: str, kind: type = dict) -> Any:
    """The dict (or other `kind`) that JSON holds; `where` is what errors call it."""
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > JSON_VALUES:
        raise ValueError(f"{where}: {values:,} values, at most {JSON_VALUES:,} are read")
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
    """The values in one that are lists or dicts themselves."""
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (child for child in inside if isinstance(child, list | dict))


def open_npy(path: str | Path) -> np.ndarray:
    """A .npy file, whatever its name, as a read-only memory map. Raises ValueError naming the file."""
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
    """The arrays of an .npz file, each read when asked for: in all `max_bytes`, and as many as the file is likely to
    hold. Raises ValueError for what is damaged, too large or neither numbers nor text."""
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
        except Exception as error:  # a damaged archive fails in any way
            raise ValueError(f"damaged or truncated: {error}") from error
        yield _Arrays(archive, min(max_bytes, max(FREE, UNFOLD * size)))


class _Arrays(Mapping):
    """The arrays of an archive by name, together no larger than allowed."""

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
            raise ValueError(f"no array {name}, there are {', '.join(list(self)[:20]) or 'none'}")
        member = self._members[name]
        self._left -= member.file_size
        if self._left < 0:
            raise ValueError(
                f"{self._max_bytes - self._left:,} bytes unpacked with array {name}, at most {self._max_bytes:,} are "
                "read"
            )
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack all at once
            raise ValueError(f"array {name} is compressed in an unknown way ({member.compress_type})")
        try:
            with self._archive.open(member) as stream:
                return _read(cast(io.BufferedIOBase, stream), member.file_size)
        except Exception as error:  # a damaged archive fails in any way
            raise ValueError(f"array {name}: {error}") from error


def _read(stream: io.BufferedIOBase, size: int) -> np.ndarray:
    """The array of a stream of `size` bytes."""
    dtype, shape, order = _header(stream)
    size -= stream.tell()
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{size:,} bytes, {dtype} {shape} takes {math.prod(shape) * dtype.itemsize:,}")
    content, done = np.empty(size, np.uint8), 0
    while chunk := stream.read(CHUNK):  # until the end, where the checksum is compared
        content[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    if done != size:
        raise ValueError(f"{done:,} bytes, {size:,} expected")
    return content.view(dtype).reshape(shape, order=order)


def _header(stream: io.BufferedIOBase) -> tuple[np.dtype, tuple[int, ...], Any]:
    """Dtype, shape and order (C or F) of the array that follows."""
    magic, major, _ = struct.unpack("<6s2B", _exactly(stream, 8))
    if magic != b"\x93NUMPY" or major not in (1, 2, 3):
        raise ValueError("not in the .npy format")
    (length,) = struct.unpack("<H" if major == 1 else "<I", _exactly(stream, 2 if major == 1 else 4))
    if length > HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, at most {HEADER_BYTES:,} are read")
    header = _exactly(stream, length)
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError(f"its header is not that of a plain array: {header[:80].decode('latin1')!r}")
    ends, kind, width, fortran, shape = (part.decode() for part in match.groups())
    if kind == "O":
        raise ValueError("holds Python objects, which are never read")
    dtype = np.dtype(f"{ends}{kind}{width}")
    if kind in "VMm" or dtype.itemsize == 0:
        raise ValueError(f"holds {dtype}, and only numbers and text are read")
    return dtype, tuple(map(int, re.findall(r"\d+", shape))), "F" if fortran == "True" else "C"


def _exactly(stream: io.BufferedIOBase, count: int) -> bytes:
    """So many bytes of a stream."""
    content = stream.read(count)
    if len(content) != count:
        raise ValueError(f"{len(content)} bytes, {count} expected (truncated)")
    return content
