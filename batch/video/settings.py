"""Frozen dataclasses to and from plain dicts, strictly. Knows nothing of what they mean."""

from dataclasses import asdict, fields
from typing import Any, Self


class Settings:
    """Base of frozen dataclasses that are stored as JSON objects."""

    def to_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: an unknown or missing key, or a value that the class refuses.
        """
        if not isinstance(data, dict):
            raise ValueError(f"{cls.__name__}: got {type(data).__name__}, expected an object")
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # as above
        if set(data) != known:
            raise ValueError(
                f"{cls.__name__}: unknown keys {sorted(set(data) - known)}, "
                f"missing keys {sorted(known - set(data))}"
            )
        return cls(**data)
