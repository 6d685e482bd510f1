"""The runs at work in one folder: who they are, who is still alive, what the dead left.

A run holds a lock on a file of its own for as long as it lives, so that any process on any host
can tell; the kernel gives the lock back however the run ends. Unfinished files lie in the run's
folder, so that what a dead run left is found without a search.
"""

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from jobs.atomic import write_errors
from jobs.errors import BusyError, JobError
from jobs.shards import Shard

HEARTBEAT_EVERY_S = 60.0
FOREIGN_DEAD_AFTER_S = 900.0
"""A run of another machine is dead only if its lock is free and its last beat so far from now: some
cluster file systems keep locks to one machine."""

_LOCK = "lock"
_ROOT_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run says of itself.

    `boot` is the same in all that one kernel runs since it started, whatever a container calls
    itself; `claims` are the shards it works on, by kind of work.
    """

    id: str
    host: str
    boot: str
    pid: int
    started: str
    claims: Mapping[str, Shard]

    def to_json(self) -> str:
        claims = {kind: str(shard) for kind, shard in self.claims.items()}
        return json.dumps({**self.__dict__, "claims": claims}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        data: dict[str, Any] = json.loads(text)
        claims = {kind: Shard.parse(shard) for kind, shard in data.pop("claims").items()}
        return cls(claims=claims, **data)


class Run:
    """This process among the runs in a folder; a context manager that ends it."""

    def __init__(self, info: RunInfo, folder: Path, lock: int) -> None:
        self.info = info
        self.folder = folder
        """For unfinished files; gone when the run ends."""
        self._lock = lock
        self._heartbeat_s = time.monotonic()

    @classmethod
    def begin(cls, root: Path, claims: Mapping[str, Shard]) -> Self:
        """Register in the folder that the runs share, and remove what dead ones left there.

        Raises:
            BusyError: a live run claims some of the same items.
            JobError: the folder cannot be written, or its file system has no locks.
        """
        host, pid = socket.gethostname(), os.getpid()
        started = datetime.now(UTC)
        name = f"{started:%Y%m%dT%H%M%S}-{host}-{pid}-{secrets.token_hex(2)}"
        info = RunInfo(
            id=name,
            host=host,
            boot=_boot(),
            pid=pid,
            started=f"{started:%Y-%m-%dT%H:%M:%SZ}",
            claims=claims,
        )
        with locked(root):
            for other in _sweep(root):
                for kind, shard in claims.items():
                    if kind in other.claims and shard.overlaps(other.claims[kind]):
                        raise BusyError(
                            f"{root}: process {other.pid} on {other.host} is at work on shard "
                            f"{other.claims[kind]} of the same since {other.started}; "
                            "run the same command when it has ended"
                        )
            folder = root / "runs" / name
            with write_errors(folder / _LOCK):
                folder.mkdir()
                lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(lock, info.to_json().encode())
            fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(info, folder, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        root = self.folder.parent.parent
        with locked(root):
            os.close(self._lock)  # NFS keeps a removed file under another name while it is open
            _remove(self.folder)
            _sweep(root)

    def release_claims(self) -> bool:
        """Give up the claims; whether no live run has any of their kinds. Needs the root's lock.

        What the last of several tasks does for all of them is done by the one that gets True.
        """
        kinds, self.info = self.info.claims.keys(), replace(self.info, claims={})
        os.ftruncate(self._lock, os.pwrite(self._lock, self.info.to_json().encode(), 0))
        others = live_runs(self.folder.parent.parent)
        return not any(kinds & other.claims.keys() for other in others)

    def heartbeat(self) -> None:
        """Show other hosts that this run lives; cheap, may be called at any rate."""
        if time.monotonic() - self._heartbeat_s > HEARTBEAT_EVERY_S:
            self._heartbeat_s = time.monotonic()
            os.utime(self._lock)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the folder's lock: no other run begins, ends or rewrites what all share.

    Raises:
        JobError: the folder cannot be written, or its file system has no locks.
    """
    try:
        (root / "runs").mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "runs" / _ROOT_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise JobError(f"{root}: this folder cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise JobError(
                f"{root}: its file system has no locks ({error.strerror}); mount it with flock, "
                "or take another folder"
            ) from error
        yield
    finally:
        os.close(lock)


def had_runs(root: Path) -> bool:
    """Whether a run ever began in a folder."""
    return (root / "runs" / _ROOT_LOCK).exists()


def live_runs(root: Path) -> list[RunInfo]:
    """Runs at work below a folder, oldest first; reads only."""
    return [info for _, info in _runs(root) if info is not None]


def dead_runs(root: Path) -> list[Path]:
    """Folders of runs that were killed, oldest first; the next run removes them."""
    return [folder for folder, info in _runs(root) if info is None]


def _sweep(root: Path) -> list[RunInfo]:
    """Live runs; the folders of dead ones are removed."""
    runs = _runs(root)
    for folder in [folder for folder, info in runs if info is None]:
        _remove(folder)
    return [info for _, info in runs if info is not None]


def _runs(root: Path) -> list[tuple[Path, RunInfo | None]]:
    """Folder of each run and what it says of itself; None: it is dead."""
    return [(run, _live(run)) for run in sorted(root.glob("runs/*/"))]


def _live(folder: Path) -> RunInfo | None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        info = RunInfo.from_json(os.read(lock, 1 << 16).decode())
        beaten_s = time.time() - os.fstat(lock).st_mtime
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return info
    except ValueError:  # it died while it registered
        return None
    finally:
        os.close(lock)
    if info.host == socket.gethostname() or (info.boot and info.boot == _boot()):
        return None
    # A clock that is ahead puts its beats into the future.
    return info if abs(beaten_s) < FOREIGN_DEAD_AFTER_S else None


def _boot() -> str:
    """Empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
    with suppress(OSError):  # a child of a dead run that dies this very moment; found next time
        folder.rmdir()
