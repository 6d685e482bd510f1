"""Where work runs. Work is command lines that anyone can paste; an engine only places them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.shards import Shard


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command line, run as `tasks` tasks that differ in their `--shard` only.

    `cpus` and `gpus` are what each task needs.
    """

    name: str
    command: tuple[str, ...]
    tasks: int
    cpus: int
    gpus: int

    def task(self, index: int) -> tuple[str, ...]:
        """The command line of one task, counted from 0."""
        return (*self.command, "--shard", str(Shard(index=index, count=self.tasks)))


class Engine(Protocol):
    """Runs stages one after the other, the tasks of a stage at once if there is room.

    A task that exits with 75 was stopped and is to be run again; one with 3 has done all that can
    be done, and the next stage goes on without what failed.
    """

    def run(self, stages: Sequence[Stage]) -> int:
        """Run all, and return the exit code of the whole."""
