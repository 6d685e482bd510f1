"""What a command over several inputs did, and the exit code that says it."""

import time
from collections import Counter
from dataclasses import dataclass, field

import click

FAILED, PARTIAL = 1, 3


@dataclass
class Summary:
    """Counts inputs; the last line on stderr and the exit code come from it."""

    done: int = 0
    skipped: int = 0
    size_bytes: int = 0
    failures: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.perf_counter)

    def fail(self, message: str) -> None:
        """Say at once what failed, and remember it."""
        self.failures.append(message)
        click.echo(f"error: {message}", err=True)

    def finish(self) -> None:
        """Print the summary; exit 1 if all inputs failed, 3 if some did."""
        counts = Counter(done=self.done, skipped=self.skipped, failed=len(self.failures))
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        seconds = time.perf_counter() - self.started_s
        click.echo(f"{said}; {self.size_bytes:,} bytes, {seconds:.1f} s", err=True)
        if self.failures:
            raise SystemExit(PARTIAL if self.done or self.skipped else FAILED)
