"""Seconds, memory and bytes of a piece of work are those that it takes."""

import mmap
import os
from pathlib import Path

import torch

from batch.evaluation.measuring import (
    bytes_read,
    in_new_process,
    peak_allocated,
    ratio,
    side_by_side,
)


def test_works_run_in_turn() -> None:
    order: list[str] = []
    taken = side_by_side({name: lambda name=name: order.append(name) for name in "ab"}, 2)  # type: ignore[misc]
    assert order == ["a", "b", "a", "b"]
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}


def test_the_ratio_is_the_median_of_each_repeats_own() -> None:
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_a_new_process_is_another_one_each_time() -> None:
    processes = {os.getpid(), in_new_process(os.getpid), in_new_process(os.getpid)}
    assert len(processes) == 3


def test_the_peak_counts_what_is_held_at_one_time() -> None:
    def one_after_another() -> None:
        for _ in range(3):
            torch.ones(1 << 20)

    def together() -> list[torch.Tensor]:
        return [torch.ones(1 << 20) for _ in range(3)]

    megabytes = 4 << 20
    assert megabytes <= peak_allocated(one_after_another) < 1.1 * megabytes
    assert 3 * megabytes <= peak_allocated(together) < 3.1 * megabytes


def test_bytes_are_counted_whether_they_are_read_or_mapped(tmp_path: Path) -> None:
    path, megabyte = tmp_path / "x", 1 << 20
    path.write_bytes(bytes(4 * megabyte))

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            file.read(megabyte)

    def touch() -> mmap.mmap:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for at in range(0, 2 * megabyte, mmap.PAGESIZE):
            mapped[at]
        return mapped

    asked, mapped = bytes_read(read, [path]), bytes_read(touch, [path])
    assert (asked.asked, asked.mapped) == (megabyte, 0)
    assert mapped.asked < 10_000
    assert 2 * megabyte <= mapped.mapped <= 4 * megabyte
