"""JSON to frozen dataclasses and back, where anything unexpected is an error."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


def dump_canonical(value: object) -> str:
    """The only way to write a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def load_strict(text: str | bytes) -> Any:
    """Parse JSON; ValueError for a key twice in one object, NaN, infinity or too deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def build(record: type[Record], value: object, where: str) -> Record:
    """Make a dataclass from a parsed JSON object; `where` names it in errors.

    ValueError where a key is unknown or missing, or a value has another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {type(value).__name__}")
    hints = _hints(record)  # type: ignore[arg-type]  # mypy: a class is hashable
    for key in value:
        if key not in hints:
            raise ValueError(f"unknown key {where}.{key}")
    for key in hints:
        if key not in value:
            raise ValueError(f"missing key {where}.{key}")
    return record(**{key: _convert(hints[key], value[key], f"{where}.{key}") for key in hints})


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _convert(hint: Any, value: object, where: str) -> Any:
    if type(value) is hint:  # isinstance would take True for an int
        return value
    if hint is float and type(value) is int:  # JSON has one kind of number
        return _as_float(value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(value) in arguments:
            return value
        if float in arguments and type(value) is int:
            return _convert(float, value, where)
        others = [argument for argument in arguments if argument is not types.NoneType]
        if len(others) == 1:
            return _convert(others[0], value, where)
    elif origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in value)
    elif origin is Mapping and isinstance(value, dict):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(f"{where} has the wrong type: got {type(value).__name__}")


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{where} is too large") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} appears twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
