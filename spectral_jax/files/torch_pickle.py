"""Interpret the pickle in a torch.save file without executing it: only tensors and plain containers are built.

`pickle.load` is never used. Names in the pickle are looked up in the tables below; they are never imported or called.
An opcode, a name or a call that is not in the tables is refused.
"""

import pickletools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectral_jax.files.torch_archive import Archive, TorchFileError, spend
from spectral_jax.files.torch_tensors import DTYPES, SCALARS, STORAGES, Storage, tensor

DEPTH = 64  # levels of nesting
OPCODES = 1 << 18  # a tensor takes about 25; one opcode makes at most an empty set, 216 bytes of memory

_GLOBALS = {
    *STORAGES,
    "torch.storage.UntypedStorage",
    *("collections.OrderedDict", "__builtin__.set", "builtins.set", "_codecs.encode", "torch.Size", "numpy.dtype"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
}
_ONLY = "(only tensors and plain containers are read)"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
# How many values an opcode takes from the stack; the opcodes not listed take all down to the last mark.
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


@dataclass(frozen=True, slots=True)
class _Global:
    """Stands for a name of _GLOBALS, such as a function that makes a tensor."""

    name: str


def interpret(data: bytes, archive: Archive) -> object:
    """Return the value of a pickle (protocols 1 to 5). Raises TorchFileError for what is refused."""
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


def is_key(key: Any) -> bool:
    """Whether a dict key or set member is a plain value that is fast to hash and compare."""
    if type(key) is tuple:
        return len(key) <= 16 and all(type(part) is not tuple and is_key(part) for part in key)
    if type(key) in (str, bytes):
        return len(key) <= 4096
    return key is None or type(key) in (bool, float) or (type(key) is int and -(2**63) <= key < 2**63)


def _extend(container: Any, items: list) -> None:
    """Add items to a list or set, or alternating keys and values to a dict."""
    if type(container) is list:
        container.extend(items)
        return
    keys = items if type(container) is set else items[::2]
    if type(container) not in (set, dict, OrderedDict) or not all(map(is_key, keys)):
        raise TorchFileError(
            "data.pkl adds to something that is not a container, or adds a key that is not short and plain"
        )
    container.update(keys if type(container) is set else zip(keys, items[1::2], strict=True))


def _global(module: object, name: object) -> np.dtype | _Global:
    """The dtype called `module.name`, or a stand-in for that name."""
    full = f"{module}.{name}" if type(module) is str and type(name) is str else ""
    if full not in DTYPES and full not in _GLOBALS:
        raise TorchFileError(f"refuses to load {full[:200]!r} {_ONLY}")
    return DTYPES.get(full, _Global(full))


def _persistent(identity: object) -> Storage:
    """The storage that a persistent id refers to."""
    match identity:
        case str(tag), _Global(name), str(key), str(), int(count) if (
            tag == "storage" and name.endswith("Storage") and len(key) < 80 and count >= 0
        ):
            dtype = STORAGES.get(name, np.dtype("u1"))
            return Storage(key, dtype, count * dtype.itemsize)
    raise TorchFileError("data.pkl has a persistent id that is not a storage's")


def _call(function: object, arguments: object, archive: Archive) -> object:
    """The result of a call that makes a tensor or a plain container. Nothing else can be called."""
    if type(function) is not _Global or type(arguments) is not tuple or len(arguments) > 8:
        raise TorchFileError(f"refuses to call something that is not a function {_ONLY}")
    match function.name.rsplit(".", 1)[1], *arguments:
        case ("OrderedDict",):
            return OrderedDict()
        case "Size", tuple(size):
            return size
        case "_rebuild_tensor" | "_rebuild_tensor_v2", Storage() as storage, *place if len(place) <= 5:
            return tensor(archive, storage, storage.dtype, *place[:3])
        case "_rebuild_tensor_v3", Storage() as storage, offset, size, stride, _, _, np.dtype() as dtype:
            return tensor(archive, storage, dtype, offset, size, stride)
        case "_rebuild_tensor_v2" | "_rebuild_tensor_v3", Storage(), *rest if rest and type(rest[-1]) is dict:
            raise TorchFileError("has a lazily conjugated or negated tensor; save its resolve_conj().resolve_neg()")
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", np.ndarray() as value, *_:
            return value
        case "set", list(items):
            spend(archive, len(items))
            result = set()
            _extend(result, items)
            return result
        case "encode", str(text), str(codec) if codec == "latin1":  # bytes, in protocol 2
            spend(archive, len(text))
            return text.encode("latin1")
        case "dtype", str(code), *_ if code in SCALARS:
            return SCALARS[code]
        case "scalar", np.dtype() as dtype, bytes(content) if len(content) == dtype.itemsize:
            return np.frombuffer(content, dtype)[0].item()
    raise TorchFileError(f"data.pkl calls {function.name!r} with the wrong arguments")


def weigh(node: Any, weights: dict[int, tuple[int, int, int]], depth: int = 0) -> tuple[int, int, int]:
    """Nodes, bytes of arrays and levels of a tree; what is shared counts each time it occurs.

    Raises TorchFileError for a tree that is too deep or that holds a function or a storage.
    """
    if isinstance(node, _Global | Storage):
        raise TorchFileError("has a function or a bare storage in place of a value")
    if not isinstance(node, list | tuple | dict):
        return 1, node.nbytes if isinstance(node, np.ndarray) else 0, 0
    if id(node) not in weights:
        if depth > DEPTH:
            raise TorchFileError(f"is nested deeper than {DEPTH} levels")
        nodes, nbytes, levels = 1, 0, 0
        for child in node.values() if isinstance(node, dict) else node:
            more_nodes, more_bytes, below = weigh(child, weights, depth + 1)
            nodes, nbytes, levels = nodes + more_nodes, nbytes + more_bytes, max(levels, below + 1)
        weights[id(node)] = nodes, nbytes, levels
    return weights[id(node)]
