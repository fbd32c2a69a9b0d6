"""Find the network's weights in a checkpoint: under any key, with any prefix, beside copies and other tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from spectral_jax.files.torch_file import Record
from spectral_jax.network.config import MOST_LAYERS
from spectral_jax.pytorch.state_dict import num_layers, table

WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # that torch puts around parts
NAMES = [weight.name for weight in table(MOST_LAYERS)]  # of the network with most layers: those of every other too
_KNOWN = frozenset(NAMES)
STEPS = 1 << 18  # values of a checkpoint that are looked at
LEVELS = 32  # of nesting that are looked at
PARTS = 1 << 14  # modules and tensors of a pickled module that are looked at
LONGEST = 1000  # characters of a tensor's name
LISTED = 20  # names in an error


class Weights(NamedTuple):
    """A set of weights in a checkpoint.

    Attributes:
      path: the keys that lead to its dict, the last one first: (path, key), or () for the whole file.
      prefix: what stands before each name there, such as "model".
      names: the names in the dict, by published name.
      arrays: all arrays in the dict.
    """

    path: tuple
    prefix: str
    names: dict[str, str]
    arrays: Mapping[str, np.ndarray]

    @property
    def keys(self) -> list[str]:
        """The keys that lead to its dict."""
        path, keys = self.path, []
        while path:
            keys.append(path[1])
            path = path[0]
        return keys[::-1]

    @property
    def label(self) -> str:
        """How --weights chooses it."""
        return ".".join([*self.keys, *filter(None, [self.prefix])]) or "."

    @property
    def complete(self) -> bool:
        """Whether every array of a network is there."""
        return len(self.names) == len(table(num_layers(self.names)))


def as_dict(loaded: Any) -> dict[Any, Any]:
    """What a file holds, as a dict: an object, list or tuple is under the name of its class.

    Raises ValueError for a file that holds none of these.
    """
    if isinstance(loaded, dict):
        return loaded
    if not isinstance(loaded, _CONTAINERS):
        raise ValueError(f"holds a {type(loaded).__name__}, expected a checkpoint, a state dict or a module")
    return {loaded.name[:LONGEST] if isinstance(loaded, Record) else type(loaded).__name__: loaded}


def find_weights(
    saved: Mapping[Any, Any], label: str | None = None, ignore: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The one set of weights in a checkpoint, or the one labelled so, under the published names.

    Also returns the keys that lead to it, and lines that tell what was left out. Tensors that match `ignore` do not
    count. A set that lacks arrays is returned if none is complete. Raises ValueError, which lists them, when several
    sets fit, none has the label, or other tensors are beside the weights.
    """
    sets = [found for path, arrays in _dicts(saved, ignore) for found in _sets(path, arrays)]
    fitting = [found for found in sets if found.complete]
    candidates = fitting or sorted(sets, key=lambda found: -len(found.names))
    listed = ", ".join(found.label for found in candidates[:LISTED]) or "none"
    if label is not None:
        candidates = [found for found in candidates if found.label == label]
        if not candidates:
            raise ValueError(f"no weights {label!r:.200}, those of this network are: {listed}")
    if not candidates:
        given = saved.get("state_dict", saved)
        return (dict(given) if isinstance(given, dict) else {}), ["state_dict"], []
    if label is None and len(fitting) > 1:
        raise ValueError(f"{len(fitting)} sets of weights fit: {listed}; choose one with --weights")
    chosen = candidates[0]
    used = {name for found in [*fitting, chosen] if found.arrays is chosen.arrays for name in found.names.values()}
    others = {name: array for name, array in chosen.arrays.items() if name not in used}
    state_dict = {name: chosen.arrays[chosen.names[name]] for name in sorted(chosen.names, key=NAMES.index)}
    if others and chosen.complete:
        told = ", ".join(f"{name[:80]} {array.shape}" for name, array in list(others.items())[:LISTED])
        raise ValueError(
            f"tensors beside the weights of the network: {told}; "
            f"leave them out with --ignore {_pattern(next(iter(others)), used)!r:.100}"
        )
    lines = []
    if chosen.label not in ("state_dict", "."):
        lines.append(f"weights: {chosen.label}")
    if left := sorted({chosen.names[name].removesuffix(name) for name in chosen.names} - {""}):
        lines.append(f"left out of the weights' names: {', '.join(left[:LISTED])}")
    return state_dict | others, chosen.keys, lines


def _pattern(name: str, used: set[str]) -> str:
    """A pattern for a tensor and those beside it that matches none of the names in use."""
    wide = f"{name.split('.')[0]}.*"
    return wide if fnmatchcase(name, wide) and not any(fnmatchcase(other, wide) for other in used) else name


def _dicts(saved: Any, ignore: Sequence[str]) -> Iterator[tuple[tuple, dict[str, np.ndarray]]]:
    """The path of each dict or pickled module in a checkpoint, and its arrays that are not to be ignored."""
    todo: deque[tuple[tuple, int, Any]] = deque([((), 0, saved)])
    seen, steps = set(), 0
    while todo and steps < STEPS:
        path, level, node = todo.popleft()
        steps += 1
        if id(node) in seen or level > LEVELS:
            continue
        seen.add(id(node))
        if isinstance(node, Record):
            inside: list[tuple[tuple, Any]] = [(path, part) for part in (node.arguments, node.items, node.state)]
            arrays, parts = _module(node)
            seen.update(parts)  # those of this module are no other sets of weights
        else:
            pairs = list(node.items() if isinstance(node, dict) else enumerate(node))
            inside = [((path, _key(key)), child) for key, child in pairs if isinstance(child, _CONTAINERS)]
            arrays = {key: child for key, child in pairs if isinstance(key, str) and isinstance(child, np.ndarray)}
        if kept := {key: array for key, array in arrays.items() if not _matches(key, ignore)}:
            yield path, kept
        todo.extend((path, level + 1, child) for path, child in inside if isinstance(child, _CONTAINERS))


_CONTAINERS = (dict, list, tuple, Record)


def _module(record: Record) -> tuple[dict[str, np.ndarray], set[int]]:
    """The state dict of a pickled module, from the states of its parts, and the ids of these; empty for other records.

    A part may be under several names, as in PyTorch, or (in a damaged file) within itself, so the steps are bounded.
    """
    arrays: dict[str, np.ndarray] = {}
    parts, todo, steps = set(), [("", record)], 0
    while todo:
        prefix, part = todo.pop()
        state = part.state if isinstance(part.state, dict) else {}
        modules, parameters, buffers = (_dict(state.get(name)) for name in ("_modules", "_parameters", "_buffers"))
        steps += 1 + len(modules) + len(parameters) + len(buffers)
        if "_modules" not in state or len(prefix) > LONGEST or steps > PARTS:
            continue
        parts.add(id(part))
        unsaved = state.get("_non_persistent_buffers_set")
        unsaved = unsaved if isinstance(unsaved, set) else ()
        kept = {name: array for name, array in (parameters | buffers).items() if name not in unsaved}
        arrays |= {f"{prefix}{_key(name)}": array for name, array in kept.items() if isinstance(array, np.ndarray)}
        children = [(f"{prefix}{_key(name)}.", child) for name, child in modules.items() if isinstance(child, Record)]
        todo += children[::-1]  # the first is next
    return arrays, parts


def _dict(value: Any) -> dict[Any, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _key(key: Any) -> str:
    return str(key)[:80] if isinstance(key, str | int) else type(key).__name__


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _sets(path: tuple, arrays: Mapping[str, np.ndarray]) -> list[Weights]:
    """The sets of weights among these arrays, complete or not, by prefix; wrappers within names are left out."""
    found: dict[str, dict[str, str]] = {}
    for full in arrays:
        parts = full.split(".") if len(full) < LONGEST else []
        plain = [i for i, part in enumerate(parts) if part not in WRAPPERS]
        for length in (2, 3):
            name = ".".join(parts[i] for i in plain[-length:])
            if len(plain) >= length and name in _KNOWN:
                found.setdefault(".".join(parts[: plain[-length]]), {}).setdefault(name, full)
    return [Weights(path, prefix, names, arrays) for prefix, names in found.items()]
