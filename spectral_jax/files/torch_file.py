"""Reads and writes the files of torch.save (.pth, .pt, .ckpt) without torch.

A file is a zip archive of uncompressed records: `<top>/data.pkl` is a pickle of the tree, each `<top>/data/<key>` the
bytes of one storage. The pickle never meets `pickle.load`: the interpreter below knows the opcodes of plain containers,
and a name found in the file is neither imported nor called but looked up in the tables here. What a file unfolds to is
limited to a multiple of its own size, so neither a size field nor sharing within the pickle can ask for much memory.
"""

import io
import math
import os
import pickle  # only for the names of its opcodes
import pickletools
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from spectral_jax.files import atomic

UNFOLD = 16  # a tree has at most so many nodes per byte of pickle, and bytes of arrays per byte of file
DEPTH = 64  # levels of nesting, read or written
FILE_BYTES = 1 << 30
PICKLE_BYTES = 8 << 20  # of data.pkl
OPCODES = 1 << 18  # in it: a tensor takes some 25, and the largest value of one, an empty set, 216 bytes of memory
RECORDS = 1 << 15  # each takes a kilobyte

_STORAGES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16, "Long": "i8", "Int": "i4",
        "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "ComplexDouble": "c16", "ComplexFloat": "c8",
    }.items()
}  # fmt: skip
_DTYPES = {f"torch.{dtype.name}": dtype for dtype in _STORAGES.values()} | {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}
_SCALARS = {dtype.str[1:]: dtype.newbyteorder("<") for dtype in _DTYPES.values() if dtype.isbuiltin == 1}
_GLOBALS = {
    *_STORAGES,
    "torch.storage.UntypedStorage",
    *("collections.OrderedDict", "__builtin__.set", "builtins.set", "_codecs.encode", "torch.Size", "numpy.dtype"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
}
_DAMAGE = (LookupError, TypeError, ValueError, OverflowError, EOFError, NotImplementedError, struct.error)
_ONLY = "(only tensors and plain containers are read)"
_AGAIN = "save it again with torch.save of torch >= 1.6"
_OTHER_FORMATS = (  # offset, signature, what to say of a file that is no zip archive
    (0, b"PK\3\4", "is a truncated zip archive (the directory at its end is missing)"),
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", f"is in the format of torch < 1.6; {_AGAIN}"),
    (0, b"\x80", f"is a bare pickle; {_AGAIN}"),
    (257, b"ustar", f"is a tar archive (the format of torch < 0.2, perhaps); {_AGAIN}"),
    (8, b'{"', f"is a safetensors file; {_AGAIN}"),
    (0, b"\x89HDF", f"is an HDF5 file; {_AGAIN}"),
    (0, b"\x93NUMPY", f"is a NumPy .npy file; {_AGAIN}"),
    (0, b"\x1f\x8b", "is a gzip file; decompress it first"),
    (0, b"version https://git-lfs", "is a Git LFS pointer; fetch the file itself (git lfs pull)"),
    (0, b"<", "is an HTML or XML page (a failed download?)"),
)


class TorchFileError(ValueError):
    """A file that is damaged, of another format, or asks for more than tensors and plain containers."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else "?" for c in message[:1000]))


# Reading: the archive.


@dataclass
class _Archive:
    data: bytes
    records: dict[str, tuple[int, int, int]]  # name: start, size, CRC-32
    top: str = ""
    swapped: bool = False  # the file's byte order is not this machine's
    allowance: int = 0  # how many items may still be copied within the pickle
    storages: dict[tuple[str, np.dtype], np.ndarray] = field(default_factory=dict)


def load(source: str | Path | bytes | io.BufferedIOBase) -> object:
    """The tree in a file of torch.save (path, bytes or stream), every tensor or parameter a read-only array (those of
    one storage share memory), NumPy scalars as Python's. TorchFileError for a bad file. Format: torch 1.6 to 2.13."""
    if isinstance(source, bytes):
        name, data = "<bytes>", source
    elif isinstance(source, str | os.PathLike):
        name, size = source, os.stat(source).st_size
        if size > FILE_BYTES:
            raise TorchFileError(f"{name}: has {size:,} bytes, and at most {FILE_BYTES:,} are read")
        data = Path(source).read_bytes()
    else:
        name, data = getattr(source, "name", "<stream>"), source.read()
    try:
        archive = _open(data)
        pickled = _record(archive, "data.pkl")
        if len(pickled) > PICKLE_BYTES:
            raise TorchFileError(f"data.pkl has {len(pickled)} bytes, and at most {PICKLE_BYTES} are read")
        archive.allowance = UNFOLD * len(pickled)
        tree = _interpret(bytes(pickled), archive)
        nodes, nbytes, levels = _weigh(tree, {})
        if nodes > UNFOLD * len(pickled) or nbytes > UNFOLD * len(data):
            raise TorchFileError(f"unfolds to more than {UNFOLD} times its size")
        if levels > DEPTH:
            raise TorchFileError(f"is nested deeper than {DEPTH} levels")
    except TorchFileError as error:
        raise TorchFileError(f"{name}: {error}") from None
    except (*_DAMAGE, zipfile.BadZipFile, Warning) as error:  # a warning only where warnings are errors
        raise TorchFileError(f"{name}: is damaged ({type(error).__name__}: {error})") from None
    return tree


def _open(data: bytes) -> _Archive:
    """The archive in `data`, the place of every record checked."""
    if data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF)) < 0:
        kinds = (words for offset, signature, words in _OTHER_FORMATS if data.startswith(signature, offset))
        raise TorchFileError(next(kinds, f"is not a zip archive; {_AGAIN}" if data else "is empty"))
    if (count := data.count(b"PK\1\2")) > RECORDS:
        raise TorchFileError(f"has {count:,} records, and at most {RECORDS:,} are read")
    records = {}
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        for info in zipped.infolist():
            name, size = info.filename, info.file_size
            if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED:
                raise TorchFileError(f"record {name[:80]!r} is encrypted or compressed; {_AGAIN}")
            if name in records:
                raise TorchFileError(f"has two records {name[:80]!r}")
            signature, *lengths = struct.unpack_from("<4s22x2H", data, info.header_offset)
            start = info.header_offset + 30 + sum(lengths)
            if signature != b"PK\3\4" or info.compress_size != size or start + size > zipped.start_dir:
                raise TorchFileError(f"record {name[:80]!r} does not fit in the file (truncated or damaged)")
            records[name] = start, size, info.CRC
    if sum(size for _, size, _ in records.values()) > len(data):
        raise TorchFileError("has overlapping records")
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in records):
        raise TorchFileError("is a TorchScript archive; save the module's state_dict() with torch.save instead")
    tops = [name[:-8] for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        kind = "a NumPy .npz file" if any(name.endswith(".npy") for name in records) else "a zip archive"
        raise TorchFileError(f"is {kind} with {len(tops)} records data.pkl, not a file of torch.save")
    archive = _Archive(data, records, tops[0])
    order = bytes(_record(archive, "byteorder")) if f"{tops[0]}byteorder" in records else b"little"
    if order not in (b"little", b"big"):
        raise TorchFileError(f"has the unknown byte order {order[:20]!r}")
    archive.swapped = order.decode() != sys.byteorder
    return archive


def _record(archive: _Archive, name: str) -> memoryview:
    """The bytes of a record, its checksum verified."""
    start, size, crc = archive.records[archive.top + name]
    content = memoryview(archive.data)[start : start + size]
    if zlib.crc32(content) != crc:
        raise TorchFileError(f"record {name[:80]!r} is damaged (its checksum is wrong)")
    return content


# Reading: the pickle.

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}  # values, where not all down to a mark


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype  # bytes where the storage is untyped
    size: int  # bytes


def _interpret(data: bytes, archive: _Archive) -> object:
    """The value of a pickle of tensors and plain containers (protocols 1 to 5)."""
    stack, below, memo = [], [], {}  # `below`: the stack under each open mark
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if count >= OPCODES:
            raise TorchFileError(f"data.pkl has more than {OPCODES:,} opcodes")
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BININT1" | "BININT2" | "BININT" | "INT" | "LONG1" | "LONG" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[opcode.name])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                stack.append(_EMPTY[opcode.name]())
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE" | "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS" | "ADDITEMS":
                if opcode.name in _TAKES:
                    items = [stack.pop() for _ in range(_TAKES[opcode.name])][::-1]
                else:
                    items, stack = stack, below.pop()
                if opcode.name.startswith("TUPLE"):
                    stack.append(tuple(items))
                else:
                    _extend(stack[-1], items)
            case "GLOBAL":
                stack.append(_global(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_global(module, name))
            case "BINPERSID":
                stack.append(_persistent(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments, archive))
            case "BUILD":  # a state_dict's versions of its modules; a dtype's byte order
                state = stack.pop()
                little = isinstance(stack[-1], np.dtype) and type(state[1]) is str and state[1] in "<|"
                if type(stack[-1]) is not OrderedDict and not little:
                    raise TorchFileError(f"refuses to set an object's state {_ONLY}")
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name:
                raise TorchFileError(f"refuses the pickle opcode {name} at byte {position} {_ONLY}")


def _is_key(key: Any) -> bool:
    """Whether a dictionary key or set member is a plain value that is sure to be fast to hash and compare."""
    if type(key) is tuple:
        return len(key) <= 16 and all(type(part) is not tuple and _is_key(part) for part in key)
    if type(key) in (str, bytes):
        return len(key) <= 4096
    return key is None or type(key) in (bool, float) or (type(key) is int and -(2**63) <= key < 2**63)


def _extend(container: Any, items: list) -> None:
    """Adds items to a list or set, or keys and values in turn to a dict."""
    if type(container) is list:
        container.extend(items)
        return
    keys = items if type(container) is set else items[::2]
    if type(container) not in (set, dict, OrderedDict) or not all(map(_is_key, keys)):
        raise TorchFileError("data.pkl adds to what is no container, or adds a key that is no short plain value")
    container.update(keys if type(container) is set else zip(keys, items[1::2], strict=True))


def _global(module: object, name: object) -> np.dtype | _Global:
    """What stands for the global `module.name`."""
    full = f"{module}.{name}" if type(module) is str and type(name) is str else ""
    if full not in _DTYPES and full not in _GLOBALS:
        raise TorchFileError(f"refuses to load {full[:200]!r} {_ONLY}")
    return _DTYPES.get(full, _Global(full))


def _persistent(identity: object) -> _Storage:
    """The storage that a persistent id stands for."""
    match identity:
        case str(tag), _Global(name), str(key), str(), int(count) if (
            tag == "storage" and name.endswith("Storage") and len(key) < 80 and count >= 0
        ):
            dtype = _STORAGES.get(name, np.dtype("u1"))
            return _Storage(key, dtype, count * dtype.itemsize)
    raise TorchFileError("data.pkl has a persistent id that is not a storage's")


def _call(function: object, arguments: object, archive: _Archive) -> object:
    """The value of one of the calls that make tensors and plain containers; nothing else can be called."""
    if type(function) is not _Global or type(arguments) is not tuple or len(arguments) > 8:
        raise TorchFileError(f"refuses to call what is no function {_ONLY}")
    match function.name.rsplit(".", 1)[1], *arguments:
        case ("OrderedDict",):
            return OrderedDict()
        case "Size", tuple(size):
            return size
        case "_rebuild_tensor" | "_rebuild_tensor_v2", _Storage() as storage, *place if len(place) <= 5:
            return _tensor(archive, storage, storage.dtype, *place[:3])
        case "_rebuild_tensor_v3", _Storage() as storage, offset, size, stride, _, _, np.dtype() as dtype:
            return _tensor(archive, storage, dtype, offset, size, stride)
        case "_rebuild_tensor_v2" | "_rebuild_tensor_v3", _Storage(), *rest if rest and type(rest[-1]) is dict:
            raise TorchFileError("has a tensor not yet conjugated or negated; save its resolve_conj().resolve_neg()")
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", np.ndarray() as value, *_:
            return value
        case "set", list(items):
            _spend(archive, len(items))
            result = set()
            _extend(result, items)
            return result
        case "encode", str(text), str(codec) if codec == "latin1":  # bytes, in protocol 2
            _spend(archive, len(text))
            return text.encode("latin1")
        case "dtype", str(code), *_ if code in _SCALARS:
            return _SCALARS[code]
        case "scalar", np.dtype() as dtype, bytes(content) if len(content) == dtype.itemsize:
            return np.frombuffer(content, dtype)[0].item()
    raise TorchFileError(f"data.pkl calls {function.name!r} with arguments that it does not take")


def _spend(archive: _Archive, amount: int) -> None:
    """Takes from what may be copied within the pickle."""
    archive.allowance -= amount
    if archive.allowance < 0:
        raise TorchFileError(f"unfolds to more than {UNFOLD} times its size")


# Reading: the tensors.


def _tensor(archive: _Archive, storage: _Storage, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The array of shape `size`, read-only, at `offset` of a storage; offset and strides in elements."""
    key, width = storage.key, dtype.itemsize
    _, in_file, _ = archive.records.get(f"{archive.top}data/{key}", (0, None, 0))
    if in_file != storage.size:
        raise TorchFileError(f"storage {key!r} should have {storage.size} bytes, the file has {in_file}")
    fits = len(size) == len(stride) <= 64
    if not fits or not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride)):
        raise TorchFileError(f"has a tensor of impossible offset, size or stride in storage {key!r}")
    if 0 in size:
        return np.empty(size, dtype)
    if (offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1) * width > storage.size:
        raise TorchFileError(f"has a tensor of size {size} that reaches past the end of storage {key!r}")
    if (key, dtype) not in archive.storages:
        archive.storages[key, dtype] = _storage_bytes(archive, key, dtype)
    return np.ndarray(size, dtype, archive.storages[key, dtype], offset * width, [step * width for step in stride])


def _storage_bytes(archive: _Archive, key: str, dtype: np.dtype) -> np.ndarray:
    """The bytes of a storage, in place where they are aligned and in this machine's order; uint8[bytes], read-only."""
    content = np.frombuffer(_record(archive, f"data/{key}"), np.uint8)
    content = content[: content.size // dtype.itemsize * dtype.itemsize]
    if archive.swapped and dtype.itemsize > 1:
        word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        content = content.view(f"u{word}").byteswap().view(np.uint8)
    elif dtype == np.bool_:
        content = (content != 0).view(np.uint8)
    elif not content.view(dtype).flags.aligned:
        content = content.copy()
    content.flags.writeable = False
    return content


def _weigh(node: Any, weights: dict[int, tuple[int, int, int]], depth: int = 0) -> tuple[int, int, int]:
    """Nodes, bytes of arrays and levels of a tree, what is shared counted each time; raises for what is no value."""
    if isinstance(node, _Global | _Storage):
        raise TorchFileError("has a function or a bare storage in place of a value")
    if not isinstance(node, list | tuple | dict):
        return 1, node.nbytes if isinstance(node, np.ndarray) else 0, 0
    if id(node) not in weights:
        if depth > DEPTH:
            raise TorchFileError(f"is nested deeper than {DEPTH} levels")
        nodes, nbytes, levels = 1, 0, 0
        for child in node.values() if isinstance(node, dict) else node:
            more_nodes, more_bytes, below = _weigh(child, weights, depth + 1)
            nodes, nbytes, levels = nodes + more_nodes, nbytes + more_bytes, max(levels, below + 1)
        weights[id(node)] = nodes, nbytes, levels
    return weights[id(node)]


# Writing.

_ORDERED = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
# Of each dtype: the version of the call that makes a tensor, its storage's name and, in version 3, its own name.
_TORCH = {d: (3, b"ctorch.storage\nUntypedStorage\n", b"ctorch\n%b\n" % n[6:].encode()) for n, d in _DTYPES.items()}
_TORCH |= {d: (2, b"ctorch\n%b\n" % n[6:].encode(), b"") for n, d in _STORAGES.items()}


def save(target: str | Path | io.BufferedIOBase, obj: object) -> None:
    """Writes a tree of dict, OrderedDict, list, tuple, str, int, float, bool, None and arrays (which become tensors)
    for torch.load; a path is replaced only once all is written. TypeError, with the place, for anything else."""
    arrays = []
    pickled = pickle.PROTO + b"\2" + _encode(obj, "the tree", arrays) + pickle.STOP
    if not isinstance(target, str | os.PathLike):
        return _write(target, pickled, arrays)
    with atomic.replacing(target) as partial, partial.open("wb") as stream:
        _write(stream, pickled, arrays)


def _write(stream: io.BufferedIOBase, pickled: bytes, arrays: Sequence[np.ndarray]) -> None:
    """Writes the archive, every record at a multiple of 64 bytes."""
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
    """The pickle (protocol 2) of a value without its end; the arrays in it are added to `arrays`."""
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
            if not _is_key(key):
                raise TypeError(f"{where[:200]} has the key {key!r}, which is no short plain value")
            items += [_encode(key, f"a key of {where}", arrays), _encode(item, f"{where}[{key!r}]", arrays, depth + 1)]
        return (pickle.EMPTY_DICT if kind is dict else _ORDERED) + pickle.MARK + b"".join(items) + pickle.SETITEMS
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return _encode_array(np.asarray(value), where, arrays)
    raise TypeError(f"{where[:200]} is a {kind.__module__}.{kind.__qualname__}, which is neither array nor plain value")


def _encode_array(array: np.ndarray, where: str, arrays: list[np.ndarray]) -> bytes:
    """The pickle of the call that makes a tensor; the array, contiguous and of native order, goes to `arrays`."""
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
