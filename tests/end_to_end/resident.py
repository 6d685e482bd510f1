"""What reading a cache adds to the memory of a process that has its model loaded.

python -m tests.end_to_end.resident MODEL SHORT LONG prints bytes as JSON.
"""

import json
import sys
from pathlib import Path

import click
import torch

from batch.answering import PrefixAnswerer
from batch.evaluation.measuring import peak_resident
from batch.kv import Prefix
from batch.models import Family, open_family
from cachefmt import CacheFile


def answer(family: Family, path: Path) -> None:
    with CacheFile.open(path) as cache:
        list(PrefixAnswerer.of_cache(cache, family).ask_all(["a b", "c d a"], max_new_tokens=3))


def expand(path: Path) -> None:
    with CacheFile.open(path) as cache:
        Prefix.load(cache, "cpu").to_dynamic_cache(torch.float32)


def main(model: str, short: str, long: str) -> None:
    family = open_family(model)
    family.load(device="cpu", dtype=torch.float32)
    answer(family, Path(short))  # what the first use of everything takes is not the cache's
    added = {
        "answering": peak_resident(lambda: answer(family, Path(long))),
        "expanding": peak_resident(lambda: expand(Path(long))),
    }
    click.echo(json.dumps(added))


if __name__ == "__main__":
    main(*sys.argv[1:])
