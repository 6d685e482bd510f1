"""A Ray of threads in this process: what the engine asks of the real one, and no more."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """A task was lost."""


class RayTaskError(RayError):
    """The function of a task raised."""


class FakeRay:
    """Cores and GPUs of its one node are only said."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.losses = 0
        """How many tasks are still to be lost."""
        self.asked: list[dict[str, Any]] = []
        self.is_connected = False

    def init(self, **options: Any) -> None:
        self.is_connected = True

    def shutdown(self) -> None:
        self.is_connected = False

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(**given: Any) -> Any:
            self.asked.append(given)
            return SimpleNamespace(remote=lambda *values: self._start(function, *values))

        return SimpleNamespace(options=options)

    def wait(
        self, references: Sequence[Future[Any]], timeout: float, num_returns: int = 1
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        ready, left = wait(references, timeout, FIRST_COMPLETED)
        return list(ready), list(left)

    def get(self, reference: Future[Any]) -> Any:
        try:
            return reference.result()
        except OSError as error:
            raise RayTaskError(error) from error

    def _start(self, function: Callable[..., Any], *values: Any) -> Future[Any]:
        if self.losses:
            self.losses -= 1
            lost: Future[Any] = Future()
            lost.set_exception(RayError("the node died"))
            return lost
        return self.pool.submit(function, *values)
