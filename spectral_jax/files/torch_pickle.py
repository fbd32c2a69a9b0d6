"""Interpret the pickle in a torch.save file without executing it: only arrays and plain containers are built.

`pickle.load` is never used. Names in the pickle are looked up in a table; they are never imported or called. What is
not in the table becomes an inert record of its name, arguments and state.
"""

import pickletools
from collections import OrderedDict
from typing import Any

import numpy as np

from spectral_jax.files.torch_archive import Archive, TorchFileError, spend
from spectral_jax.files.torch_records import Record
from spectral_jax.files.torch_tensors import DTYPES, SCALARS, STORAGES, Storage, numpy_array, tensor

DEPTH = 64  # levels of nesting
OPCODES = 1 << 18  # a tensor takes about 25; one opcode makes at most an empty set, 216 bytes of memory

NAME = 1000  # characters of a name

_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_TENSORS = (*(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")), *_PARAMETERS)
_FUNCTIONS = {  # what is understood; calls of other names become records
    *STORAGES,
    *("torch.storage.UntypedStorage", "torch._tensor._rebuild_from_type_v2", *_TENSORS),
    *("collections.OrderedDict", "_codecs.encode", "torch.Size", "numpy.dtype"),
    *(f"{module}.{kind}" for module in ("__builtin__", "builtins") for kind in ("set", "frozenset", "bytes")),
    *(f"numpy.{core}.multiarray.{kind}" for core in ("core", "_core") for kind in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
}
_ONLY = "(only tensors, plain containers and inert records are read)"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
# How many values an opcode takes from the stack; the opcodes not listed take all down to the last mark.
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


def interpret(data: bytes, archive: Archive) -> object:
    """Return the value of a pickle (protocols 1 to 5). Raises TorchFileError for what is refused."""
    stack, below, memo = [], [], {}  # `below`: the stack under each open mark
    places = {}  # where in the memo each value is, by its id
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        if count >= OPCODES:
            raise TorchFileError(f"data.pkl has more than {OPCODES:,} opcodes")
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                place = len(memo) if argument is None else argument
                memo[place] = stack[-1]
                places[id(stack[-1])] = place
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BININT1" | "BININT2" | "BININT" | "INT" | "LONG1" | "LONG4" | "LONG" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING" | "BYTEARRAY8":
                stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
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
                    kind = dict if opcode.name.startswith("SETITEM") else list
                    _extend(_items(stack[-1], kind), items)
            case "POP" if not stack:  # of a mark
                stack = below.pop()
            case "POP":
                stack.pop()
            case "POP_MARK":
                stack = below.pop()
            case "FROZENSET":
                items, stack = stack, below.pop()
                stack.append(_set(items, archive, frozenset))
            case "GLOBAL":
                stack.append(_global(*str(argument).split(" ", 1), archive=archive))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_global(module, name, archive))
            case "BINPERSID":
                stack.append(_persistent(stack.pop(), archive))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments, archive))
            case "NEWOBJ_EX":
                options, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(_call(function, (arguments, options), archive))
            case "BUILD":
                state, value = stack.pop(), stack[-1]
                stack[-1] = _build(value, state, archive)
                if stack[-1] is not value and memo.get(places.get(id(value))) is value:
                    memo[places[id(value)]] = stack[-1]
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
    return (
        key is None
        or type(key) in (bool, float, Record)
        or isinstance(key, np.dtype)
        or (type(key) is int and -(2**63) <= key < 2**63)
    )


def _extend(container: Any, items: list) -> None:
    """Add items to a list or set, or alternating keys and values to a dict."""
    if type(container) is list:
        container.extend(items)
        return
    keys = items if type(container) is set else items[::2]
    keys = [Record("frozenset", (key,)) if type(key) is frozenset else key for key in keys]  # slow to compare
    if type(container) not in (set, dict, OrderedDict) or not all(map(is_key, keys)):
        raise TorchFileError(
            "data.pkl adds to something that is not a container, or adds a key that is not short and plain"
        )
    container.update(keys if type(container) is set else zip(keys, items[1::2], strict=True))


def _items(value: Any, kind: type) -> Any:
    """The container to add items of a list or dict to: the value itself, or the items of a record."""
    if type(value) is not Record:
        return value
    if value.items is None:
        value.items = kind()
    return value.items


def _set(items: list, archive: Archive, kind: type) -> Any:
    """A set or frozenset of these items."""
    spend(archive, len(items))
    result = set()
    _extend(result, items)
    return kind(result)


def _global(module: object, name: object, archive: Archive) -> np.dtype | Record:
    """The dtype called `module.name`, or a record of that name."""
    if type(module) is not str or type(name) is not str or len(module) + len(name) > NAME:
        raise TorchFileError(f"has a name that is not a text of at most {NAME} characters")
    spend(archive, len(module) + len(name))
    full = f"{module}.{name}"
    return DTYPES[full] if full in DTYPES else Record(full)


def _persistent(identity: object, archive: Archive) -> Storage | Record:
    """The storage that a persistent id refers to, or the class of a module, which older files have with its code."""
    match identity:
        case "module", Record(arguments=None) as module, str() | None, str() | None:
            return module
        case str(tag), Record(name=name, arguments=None), str(key), str(), int(count), *view if (
            tag == "storage" and name.endswith("Storage") and len(key) < 80 and count >= 0 and view in ([], [None])
        ):
            dtype = STORAGES.get(name, np.dtype("u1"))
            storage = Storage(key, dtype, count * dtype.itemsize)
            if archive.named is not None and archive.named.setdefault(key, storage) != storage:
                raise TorchFileError(f"has a storage {key!r} of two dtypes or sizes")
            return storage
    raise TorchFileError("data.pkl has a persistent id that is not a storage's or a module's")


def _call(function: object, arguments: object, archive: Archive) -> object:
    """The result of a call that makes a tensor, an array or a plain container; a record of any other call."""
    if type(function) is not Record or type(arguments) is not tuple:
        raise TorchFileError(f"refuses to call something that is not a function {_ONLY}")
    if function.arguments is not None:
        return Record(function.name, (function, arguments))
    if function.name not in _FUNCTIONS:
        return Record(function.name, arguments)
    match function.name.rsplit(".", 1)[1], *arguments[:9]:
        case ("OrderedDict",):
            return OrderedDict()
        case "OrderedDict", list(pairs):  # as Python 2 writes it
            spend(archive, len(pairs))
            result = OrderedDict()
            _extend(result, [part for key, value in pairs for part in (key, value)])
            return result
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
        case "_rebuild_parameter" | "_rebuild_parameter_with_state", Record(), *_:
            return Record(function.name, arguments)
        case "_rebuild_from_type_v2", Record(name=name, arguments=None) as maker, _, tuple() as parts, _:
            return _call(maker, parts, archive) if name in _TENSORS else Record(function.name, arguments)
        case "set", list(items):
            return _set(items, archive, set)
        case "frozenset", list(items):
            return _set(items, archive, frozenset)
        case ("bytes",):  # none, in protocol 2
            return b""
        case "encode", str(text), str(codec) if codec == "latin1":  # bytes, in protocol 2
            spend(archive, len(text))
            return text.encode("latin1")
        case "dtype", str(code), *_:
            return SCALARS[code] if code in SCALARS else Record(function.name, arguments)
        case "scalar", np.dtype() as dtype, bytes(content) if len(content) == dtype.itemsize:
            return np.frombuffer(content, dtype)[0].item()
        case "_frombuffer", bytes(content), np.dtype() as dtype, shape, "C" | "F" as order:
            return numpy_array(archive, content, dtype, shape, order)
        case ("_reconstruct" | "_frombuffer" | "set" | "frozenset" | "bytes", *_) | ("scalar", Record(), *_):
            return Record(function.name, arguments)
    raise TorchFileError(f"data.pkl calls {function.name[:200]!r} with the wrong arguments")


def _build(value: Any, state: Any, archive: Archive) -> object:
    """The value with its state: an array, a dtype in its byte order, or a record that keeps its state."""
    if type(value) is OrderedDict:  # a state_dict's versions of its modules
        return value
    match value, state:
        case np.dtype(), (int(), "<" | ">" | "|" | "=" as ends, *_):
            return value.newbyteorder("<" if ends in "|=" else ends)
        case (
            Record(name="numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct"),
            (int(), shape, np.dtype() as dtype, bool(fortran), bytes(content)),
        ):
            return numpy_array(archive, content, dtype, shape, "F" if fortran else "C")
        case Record(), _:
            value.state = state
            return value
    raise TorchFileError(f"refuses to set the state of a {type(value).__name__} {_ONLY}")


def weigh(node: Any, weights: dict[int, tuple[int, int, int]], depth: int = 0) -> tuple[int, int, int]:
    """Nodes, bytes of arrays and levels of a tree; what is shared counts each time it occurs.

    A record counts as one node: it may lead back to itself, so what walks into it must count its steps. Raises
    TorchFileError for a tree that is too deep.
    """
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
