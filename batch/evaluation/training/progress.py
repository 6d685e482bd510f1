"""How far a training is, on disk every few minutes, so that the same command goes on."""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


class Progress:
    """A file with tensors, the optimizer and how far they are: `step` steps of stage `part`."""

    def __init__(
        self, file: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Take what the file says into the tensors and the optimizer; without one, begin."""
        self._file, self._tensors, self._optimizer = file, tensors, optimizer
        self.part, self.step, self._before = 0, 0, 0.0
        if file.exists():
            state = torch.load(file, map_location=next(iter(tensors.values())).device)
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(state["tensors"][name])
            optimizer.load_state_dict(state["optimizer"])
            self.part, self.step = state["part"], state["step"]
            self._before = state["seconds"]
        self._started = self._saved = time.monotonic()

    def seconds(self) -> float:
        """Of training, in all runs together."""
        return self._before + time.monotonic() - self._started

    def save(self, part: int, steps: int, *, every_s: float) -> bool:
        """Write the state after so many steps of a stage, unless it was not long ago."""
        if time.monotonic() - self._saved < every_s:
            return False
        state = {
            "tensors": {name: tensor.detach() for name, tensor in self._tensors.items()},
            "optimizer": self._optimizer.state_dict(),
            "part": part,
            "step": steps,
            "seconds": self.seconds(),
        }
        unfinished = self._file.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self._file)
        self._saved = time.monotonic()
        return True
