"""What an index made, and waiting for it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.archive.contents import contents

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def products(out: Path) -> dict[str, Any]:
    """What was made, without what depends on how: logs, and the facts of models."""
    return {
        name: content
        for name, content in contents(out).items()
        if not name.startswith(("logs/", "models/"))
    }


def wait_for(look: Callable[[], T | None], what: str) -> T:
    """What is found when there is something to be found."""
    until = time.monotonic() + 300
    while (found := look()) is None:
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)
    return found
