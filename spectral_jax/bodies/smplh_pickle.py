"""Read SMPL-H and SMPL body models that are Python pickles, without executing anything in them.

Each global in a file becomes an inert stub that keeps its arguments and its state; unknown globals are refused.
The arrays are then built from the bytes in the stubs of NumPy, scipy.sparse and chumpy, as any Python since 2 writes
them.
"""

import math
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

FILE_BYTES = 1 << 30
OPCODES = 1 << 20  # a model has thousands; one opcode makes at most an empty set, 216 bytes
DENSE = 1 << 24  # limit of the size of a sparse matrix that is made dense
DEPTH = 6  # limit of arrays nested in arrays of chumpy and scipy
_ONLY = "(only arrays are read)"


class _Stub:
    """Stands for what a file calls or builds. A file can reach only its __setstate__."""

    __slots__ = ("args", "state")

    def __new__(cls, *args: Any):
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


_STUBS = {
    name: type(name.rsplit(".", 1)[1], (_Stub,), {"__slots__": ()})
    for name in (
        *("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"),
        *("numpy.core.numeric._frombuffer", "_codecs.encode", "copyreg._reconstructor", "copyreg.__newobj__"),
        *(f"builtins.{name}" for name in ("object", "set", "frozenset", "bytes", "bytearray")),
        *(f"scipy.sparse.{x}.{x}_{kind}" for x in ("csc", "csr", "coo") for kind in ("matrix", "array")),
        *("collections.OrderedDict", "chumpy.Ch", "chumpy.Select", "chumpy.other"),
    )
}
_DTYPES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_KEYS = {pickle.SETITEM[0]: slice(-2, -1)}  # the place of the keys on the stack, by opcode
_KEYS |= dict.fromkeys(pickle.SETITEMS + pickle.DICT, slice(None, None, 2))
_KEYS |= dict.fromkeys(pickle.ADDITEMS + pickle.FROZENSET, slice(None))


class _Unpickler(pickle._Unpickler):  # pickle.Unpickler, in C, cannot be limited in memory or in the keys it hashes
    steps = 0

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "chumpy":
            return _STUBS.get(f"chumpy.{name}", _STUBS["chumpy.other"])
        module = {"copy_reg": "copyreg", "__builtin__": "builtins"}.get(module, module.replace("._", "."))
        if f"{module}.{name}" not in _STUBS:
            raise ValueError(f"refuses to load the global {module}.{name} {_ONLY}")
        return _STUBS[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError(f"refuses a persistent id {_ONLY}")

    def get_extension(self, code: int) -> None:
        raise ValueError(f"refuses the extension code {code} {_ONLY}")


def _limited(code: int, run: Callable) -> Callable:
    def step(self: Any) -> None:
        self.steps += 1
        if self.steps > OPCODES:
            raise ValueError(f"has more than {OPCODES} opcodes")
        for key in self.stack[_KEYS[code]] if code in _KEYS else ():
            if isinstance(key, tuple | frozenset) or (isinstance(key, int) and key.bit_length() > 64):
                raise ValueError(f"has a {type(key).__name__} for a key")  # slow to hash or to compare
        run(self)

    return step


_Unpickler.dispatch = {code: _limited(code, run) for code, run in pickle._Unpickler.dispatch.items()}
# Read as bytes: Python would first fill a bytearray of the size in the file with zeros.
_Unpickler.dispatch[pickle.BYTEARRAY8[0]] = _Unpickler.dispatch[pickle.BINBYTES8[0]]


def load(path: Path | str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the named arrays that a body's pickle (protocol 0 to 5, up to 1 GiB) has; sparse ones become dense.

    Raises ValueError naming the file and what is damaged, refused, or not an array of integers or floats.
    """
    where = ""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > FILE_BYTES:
                raise ValueError(f"has {size:,} bytes, the limit is {FILE_BYTES:,}")
            tree = _Unpickler(file, encoding="latin1").load()
        if type(tree) is not dict:
            raise ValueError(f"holds a {type(tree).__name__}, not a dict")
        arrays = {}
        for name in filter(tree.__contains__, names):
            where = f"{name} "
            arrays[name] = _array(tree.pop(name), DEPTH)
    except Exception as error:  # a damaged pickle raises many kinds of errors
        reason = error if type(error) is ValueError else f"is damaged ({type(error).__name__}: {error})"
        text = "".join(c if c.isprintable() else "?" for c in f"{where}{reason}"[:500])
        raise ValueError(f"{path}: not a usable SMPL-H or SMPL body: {text}") from None
    return arrays


def _array(value: Any, depth: int) -> np.ndarray:
    """The array that a stub stands for."""
    if not isinstance(value, _Stub) or not depth:
        raise ValueError(f"is a {type(value).__name__}, no array" if depth else f"is nested deeper than {DEPTH} levels")
    kind, state = type(value).__name__, value.state
    if kind in ("_reconstructor", "__newobj__") and value.args and isinstance(value.args[0], type):
        kind = value.args[0].__name__
    match kind, value.args, state:
        case "_reconstruct", _, (_, shape, dtype, fortran, content):
            return _from_bytes(content, dtype, shape, "F" if fortran else "C")
        case "_frombuffer", (content, dtype, shape, str(order), *axes), _:
            array = _from_bytes(content, dtype, shape, "F" if order == "F" else "C")
            return array.transpose(axes[0]) if order == "K" else array
        case "Ch", _, {"x": source}:
            return _array(source, depth - 1)
        case "Select", _, {"a": source, "idxs": places}:
            source = _array(source, depth - 1).reshape(-1)
            places = _integers(places, len(source), depth)
            return source[places].reshape(_shape(state.get("preferred_shape", places.shape)))
        case str(), _, dict() if kind[:3] in ("csc", "csr", "coo"):
            return _dense(kind[:3], state, depth)
    raise ValueError(f"is a {kind}, no array that can be read")


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) not in (tuple, list) or len(shape) > 4 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise ValueError("has a shape that is no short tuple of sizes")
    return tuple(shape)


def _from_bytes(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """The array of these bytes: bytes, a str of Python 2, or a call of encode by Python 3."""
    match type(dtype).__name__, dtype:
        case "dtype", _Stub(args=(str(code), *_), state=(_, "<" | ">" | "|" | "=" as ends, *_)) if code in _DTYPES:
            numbers = np.dtype(ends + code)
        case "dtype", _Stub(args=(str(code), *_)):
            raise ValueError(f"has the dtype {code}, and only integers and floats are read")
        case _:
            raise ValueError("has no dtype")
    if isinstance(content, _Stub) and type(content).__name__ == "encode":
        content = content.args[0]
    content, shape = content.encode("latin1") if isinstance(content, str) else content, _shape(shape)
    if type(content) is not bytes or len(content) != math.prod(shape) * numbers.itemsize:
        found = f"{len(content)} bytes" if type(content) is bytes else f"a {type(content).__name__}"
        raise ValueError(f"has {found} for {shape} numbers of {numbers.itemsize} bytes")
    return np.frombuffer(content, numbers).reshape(shape, order=order)


def _integers(value: Any, size: int, depth: int) -> np.ndarray:
    """The flat array of numbers from 0 to size - 1 within an array of `depth`."""
    array = _array(value, depth - 1).reshape(-1)
    if array.dtype.kind not in "iu" or (array.size and (array.min() < 0 or array.max() >= size)):
        raise ValueError(f"has indices that are not all integers from 0 to {size - 1}")
    return array.astype(np.int64)


def _dense(kind: str, state: dict, depth: int) -> np.ndarray:
    """The float64 matrix of a scipy.sparse state; entries of one place add up."""
    shape, entries = _shape(state.get("_shape", state.get("shape"))), _array(state["data"], depth - 1).reshape(-1)
    if len(shape) != 2 or math.prod(shape) > DENSE:
        raise ValueError(f"is a sparse matrix of shape {shape}, and only 2 axes of {DENSE} numbers in all are read")
    if kind == "coo":
        coordinates = state.get("coords") or (state["row"], state["col"])
        rows, columns = (_integers(axis, size, depth) for axis, size in zip(coordinates, shape, strict=True))
    else:
        lines, across = shape if kind == "csr" else shape[::-1]
        places = _integers(state["indices"], across, depth)
        starts = _integers(state["indptr"], len(places) + 1, depth)
        if len(starts) != lines + 1 or starts[0] != 0 or (np.diff(starts) < 0).any():
            raise ValueError(f"has an indptr of {len(starts)} that does not rise from 0 over {lines} lines")
        places, entries = places[: starts[-1]], entries[: starts[-1]]
        along = np.repeat(np.arange(lines), np.diff(starts))
        rows, columns = (along, places) if kind == "csr" else (places, along)
    if not len(rows) == len(columns) == len(entries):
        raise ValueError(f"has {len(entries)} entries in {len(rows)} rows and {len(columns)} columns")
    dense = np.zeros(shape)
    np.add.at(dense, (rows, columns), entries)
    return dense
