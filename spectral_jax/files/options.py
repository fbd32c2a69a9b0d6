"""Options of network and training as a file gives them: known names, values of the right type, none absurdly large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

MOST = {"modes": 1 << 20, "latent_size": 1 << 16, "conv_size": 255}  # of a network that a file asks for
MOST_OF_OTHERS = (1 << 63) - 1

Config = TypeVar("Config")


def fill(default: Config, given: Any, called: Mapping[str, str] | None = None) -> Config:
    """The config `default` with what is given, by name of field; `called` tells what the file calls a field.

    Raises ValueError for an unknown name, a value of another type, one too large, or one that the config refuses.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{type(default).__name__} is a {type(given).__name__}, expected a dict")
    fields: dict[str, type] = {name: type(value) for name, value in vars(default).items()}
    choices = {name: get_args(hint) for name, hint in get_type_hints(type(default)).items()}  # those of a Literal
    if unknown := sorted(given.keys() - fields.keys()):
        raise ValueError(f"unknown options {', '.join(unknown)}, there are {', '.join(fields)}")
    values = {}
    for field, value in given.items():
        name, kind = (called or {}).get(field, field), fields[field]
        if type(value) not in ((int, float) if kind is float else (kind,)):
            raise ValueError(f"{name} is {value!r}, which is no {kind.__name__}")
        if choices[field] and value not in choices[field]:
            raise ValueError(f"{name} is {value!r}, there are {', '.join(choices[field])}")
        if type(value) is int and abs(value) > MOST.get(field, MOST_OF_OTHERS):
            raise ValueError(f"{name} is {value}, at most {MOST.get(field, MOST_OF_OTHERS)} can be read")
        values[field] = kind(value)
    return dataclasses.replace(default, **values)  # pyright: ignore[reportArgumentType]


def check_schema(record: Mapping[str, Any], newest: int) -> None:
    """Raise ValueError when a record is from a newer version, or does not tell."""
    schema = record.get("schema")
    if type(schema) is not int:
        raise ValueError(f"schema is {schema!r}, expected a number up to {newest}")
    if schema > newest:
        raise ValueError(f"written by a newer version (schema {schema}, this version reads {newest})")
