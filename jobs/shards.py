"""Tasks that share work: which one an item belongs to by its digest, and their command lines."""

import hashlib
import math
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Task `index` of `count`, counted from 0.

    An item's shard follows from its digest alone, so new items never move the others, and a
    finished item stays finished when the next run has with another number of tasks.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"got {self}, expected 0/{self.count} to {self.count - 1}/{self.count}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "3/16"; a ValueError says what else was got."""
        index, slash, count = text.partition("/")
        if not slash or not (index.isdecimal() and count.isdecimal()) or int(count) < 1:
            raise ValueError(f"got {text!r}, expected INDEX/COUNT, as 0/16 to 15/16")
        return cls(index=int(index), count=int(count))

    def owns(self, digest: str) -> bool:
        return int(digest[:16], 16) % self.count == self.index

    def owns_name(self, name: str) -> bool:
        """The same for an item of which no digest is known."""
        return self.count == 1 or self.owns(
            hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        )

    def overlaps(self, other: "Shard") -> bool:
        """Whether some item could belong to both."""
        step = math.gcd(self.count, other.count)
        return self.index % step == other.index % step


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command line, run as `tasks` tasks that differ in their `--shard` only.

    `cpus` and `gpus` are what each task needs. A task that exits with 75 was stopped and is to be
    run again; one with 3 has done all that can be done, and the next stage goes on without what
    failed.
    """

    name: str
    command: tuple[str, ...]
    tasks: int
    cpus: int
    gpus: int

    def task(self, index: int) -> tuple[str, ...]:
        """The command line of one task, counted from 0."""
        return (*self.command, "--shard", str(Shard(index=index, count=self.tasks)))
