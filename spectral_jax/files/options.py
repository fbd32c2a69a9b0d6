"""Check options read from a file: known names, values of the right type, no absurdly large numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

# The largest whole number that is accepted, by field: a file must not be able to ask for a network of any size.
LARGEST = {"modes": 1 << 20, "latent_size": 1 << 16, "conv_size": 255, "directions": 1 << 14, "hidden_size": 1 << 14}
LARGEST |= {"pooled": 1 << 14, "channels": 1 << 12}
LARGEST_ELSEWHERE = (1 << 63) - 1

Config = TypeVar("Config")


def fill(default: Config, given: Any, names: Mapping[str, str] | None = None) -> Config:
    """Replace fields of the config `default` by the values in the dict `given`.

    `names` maps a field to its name in the file, for errors. Raises ValueError for an unknown name, a value of the
    wrong type, a number that is too large, or a value that the config refuses.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{type(default).__name__} is a {type(given).__name__}, expected a dict")
    fields: dict[str, type] = {name: type(value) for name, value in vars(default).items()}
    hints = get_type_hints(type(default))
    choices = {name: get_args(hint) if get_origin(hint) is Literal else () for name, hint in hints.items()}
    if unknown := sorted(given.keys() - fields.keys()):
        raise ValueError(f"unknown options {', '.join(unknown)}; available: {', '.join(fields)}")
    values = {}
    for field, value in given.items():
        name, kind = (names or {}).get(field, field), fields[field]
        several = kind is tuple  # of ints; JSON has lists
        if several and (type(value) not in (list, tuple) or any(type(part) is not int for part in value)):
            raise ValueError(f"{name} is {value!r:.200}, expected a list of int")
        if not several and type(value) not in ((int, float) if kind is float else (kind,)):
            raise ValueError(f"{name} is {value!r}, expected {kind.__name__}")
        if choices[field] and value not in choices[field]:
            raise ValueError(f"{name} is {value!r}; available: {', '.join(choices[field])}")
        largest = LARGEST.get(field, LARGEST_ELSEWHERE)
        for part in value if several else (value,):
            if type(part) is int and abs(part) > largest:
                raise ValueError(f"{name} is {part}, the limit is {largest}")
        values[field] = kind(value)
    return dataclasses.replace(default, **values)  # pyright: ignore[reportArgumentType]


def check_schema(record: Mapping[str, Any], newest: int) -> None:
    """Raise ValueError when a record lacks its schema number or was written by a newer version."""
    schema = record.get("schema")
    if type(schema) is not int:
        raise ValueError(f"schema is {schema!r}, expected an int up to {newest}")
    if schema > newest:
        raise ValueError(f"written by a newer version (schema {schema}, this version reads {newest})")
