"""Read and write the files of torch.save (.pth, .pt, .ckpt) without torch, and read .safetensors.

A file is a zip archive of uncompressed records (`torch_archive`). `<top>/data.pkl` is a pickle of the tree
(`torch_pickle`); each `<top>/data/<key>` holds the bytes of one storage (`torch_tensors`). Nothing in the pickle is
executed; what is neither a tensor nor plain becomes an inert record (`torch_records`). The result may be at most a
multiple of the file's own size, so neither a size field nor sharing within the pickle can claim much memory.
"""

import io
import math
import os
import pickle  # only for the names of its opcodes
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectral_jax.files import atomic, safetensors, torch_legacy
from spectral_jax.files.torch_archive import FILE_BYTES, UNFOLD, TorchFileError, open_archive, read_record
from spectral_jax.files.torch_pickle import DEPTH, interpret, is_key, weigh
from spectral_jax.files.torch_records import Record, describe
from spectral_jax.files.torch_tensors import DTYPES, STORAGES

__all__ = ["Record", "TorchFileError", "describe", "load", "save"]

PICKLE_BYTES = 8 << 20  # of data.pkl
# What parsing a damaged archive or pickle raises; `load` turns each into a TorchFileError that names the file.
_DAMAGE = (LookupError, TypeError, ValueError, OverflowError, EOFError, NotImplementedError, struct.error)


# Reading.


def load(source: str | Path | bytes | io.BufferedIOBase) -> object:
    """Read the tree in a file of torch.save, 0.4 to 2.13, given as a path, bytes or a stream; or a .safetensors file.

    Tensors, parameters and NumPy arrays become read-only arrays; views of one storage share memory. NumPy scalars
    become Python numbers. Other functions, classes and objects become a Record each, of their name, arguments and
    state. Raises TorchFileError, which names the file, for a file that is damaged, of another format or refused.
    """
    if isinstance(source, bytes):
        name, data = "<bytes>", source
    elif isinstance(source, str | os.PathLike):
        name, size = source, os.stat(source).st_size
        if size > FILE_BYTES:
            raise TorchFileError(f"{name}: has {size:,} bytes, the limit is {FILE_BYTES:,}")
        data = Path(source).read_bytes()
    else:
        name, data = getattr(source, "name", "<stream>"), source.read()
    try:
        if safetensors.is_safetensors(data):
            return safetensors.read(data)
        legacy = data.startswith(torch_legacy.SIGNATURES)
        archive = torch_legacy.open_legacy(data, PICKLE_BYTES) if legacy else open_archive(data)
        pickled = read_record(archive, "data.pkl")
        if len(pickled) > PICKLE_BYTES:
            raise TorchFileError(f"data.pkl has {len(pickled):,} bytes, the limit is {PICKLE_BYTES:,}")
        archive.allowance = UNFOLD * len(pickled)
        tree = interpret(bytes(pickled), archive)
        nodes, nbytes, levels = weigh(tree, {})
        if nodes > UNFOLD * len(pickled) or nbytes > UNFOLD * len(data):
            raise TorchFileError(f"unfolds to more than {UNFOLD} times its size")
        if levels > DEPTH:
            raise TorchFileError(f"is nested deeper than {DEPTH} levels")
    except TorchFileError as error:
        raise TorchFileError(f"{name}: {error}") from None
    except (*_DAMAGE, zipfile.BadZipFile, Warning) as error:  # warnings are raised where they count as errors
        raise TorchFileError(f"{name}: is damaged ({type(error).__name__}: {error})") from None
    return tree


# Writing.

_ORDERED = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
# For each dtype: the version of _rebuild_tensor that makes a tensor, the storage's name and, in version 3, the dtype's.
_TORCH = {d: (3, b"ctorch.storage\nUntypedStorage\n", b"ctorch\n%b\n" % n[6:].encode()) for n, d in DTYPES.items()}
_TORCH |= {d: (2, b"ctorch\n%b\n" % n[6:].encode(), b"") for n, d in STORAGES.items()}


def save(target: str | Path | io.BufferedIOBase, obj: object) -> None:
    """Write a tree for torch.load; a file at that path is replaced only after everything is written.

    The tree may hold dict, OrderedDict, list, tuple, str, int, float, bool, None and arrays, which become tensors.
    Raises TypeError, naming the place in the tree, for anything else, and ValueError for a tree that is too deep.
    """
    arrays = []
    pickled = pickle.PROTO + b"\2" + _encode(obj, "the tree", arrays) + pickle.STOP
    if not isinstance(target, str | os.PathLike):
        return _write(target, pickled, arrays)
    with atomic.replacing(target) as partial, partial.open("wb") as stream:
        _write(stream, pickled, arrays)


def _write(stream: io.BufferedIOBase, pickled: bytes, arrays: Sequence[np.ndarray]) -> None:
    """Write the archive, each record aligned to 64 bytes as torch.save does."""
    records = {"data.pkl": pickled, "byteorder": sys.byteorder.encode()}
    records |= {f"data/{key}": array for key, array in enumerate(arrays)} | {"version": b"3\n"}
    with zipfile.ZipFile(stream, "w") as zipped:
        for name, content in records.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            info.create_system, info.external_attr = 3, 0o600 << 16
            padding = -(zipped.start_dir + 30 + len(info.filename) + 4) % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            zipped.writestr(info, content if isinstance(content, bytes) else content.tobytes())


def _encode(value: Any, where: str, arrays: list[np.ndarray], depth: int = 0) -> bytes:
    """The pickle (protocol 2) of a value, without the final opcode; its arrays are appended to `arrays`."""
    kind = type(value)
    if depth > DEPTH:
        raise ValueError(f"{where[:200]}... is nested deeper than {DEPTH} levels")
    if value is None or kind is bool:
        return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
    if kind is int and -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    if kind is int and value.bit_length() < 8 * 255:
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return pickle.LONG1 + struct.pack("<B", len(digits)) + digits
    if kind is float:
        return pickle.BINFLOAT + struct.pack(">d", value)
    if kind is str:
        text = value.encode("utf-8", "surrogatepass")
        return pickle.BINUNICODE + struct.pack("<I", len(text)) + text
    if kind in (tuple, list):
        items = [_encode(item, f"{where}[{i}]", arrays, depth + 1) for i, item in enumerate(value)]
        if kind is tuple:
            return pickle.MARK + b"".join(items) + pickle.TUPLE
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(items) + pickle.APPENDS
    if kind in (dict, OrderedDict):
        items = []
        for key, item in value.items():
            if not is_key(key):
                raise TypeError(f"{where[:200]} has the key {key!r}, expected a short plain value")
            items += [_encode(key, f"a key of {where}", arrays), _encode(item, f"{where}[{key!r}]", arrays, depth + 1)]
        return (pickle.EMPTY_DICT if kind is dict else _ORDERED) + pickle.MARK + b"".join(items) + pickle.SETITEMS
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return _encode_array(np.asarray(value), where, arrays)
    raise TypeError(f"{where[:200]} is a {kind.__module__}.{kind.__qualname__}, expected an array or a plain value")


def _encode_array(array: np.ndarray, where: str, arrays: list[np.ndarray]) -> bytes:
    """The pickle of the call that makes a tensor; the array, contiguous and in native order, joins `arrays`."""
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype not in _TORCH:
        raise TypeError(f"{where[:200]} is an array of dtype {array.dtype}, which torch does not have")
    version, storage, dtype = _TORCH[array.dtype]
    key, count = str(len(arrays)), array.size if version == 2 else array.nbytes
    arrays.append(array)
    stride = tuple(math.prod(max(n, 1) for n in array.shape[axis + 1 :]) for axis in range(array.ndim))
    before, between, after = (
        b"".join(_encode(value, where, []) for value in values)
        for values in (["storage"], [key, "cpu", count], [0, array.shape, stride, False])
    )
    identity = pickle.MARK + before + storage + between + pickle.TUPLE + pickle.BINPERSID
    arguments = pickle.MARK + identity + after + _ORDERED + dtype + pickle.TUPLE
    return b"ctorch._utils\n_rebuild_tensor_v%d\n" % version + arguments + pickle.REDUCE
