"""What an engine runs: command lines that anyone can paste; an engine only places them."""

from dataclasses import dataclass

from jobs.shards import Shard


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
