"""The `batch` command line: its commands and their one boundary for errors.

A command is a file beside this one, imported when it is asked for, so that `batch --help`
costs no torch, OpenCV or Arrow.
"""

import click

from batch.cli.group import CommandGroup
from batch.version import __version__

COMMANDS = {
    "analyze": "Sample videos and write a manifest of each.",
    "prefill": "Run a model over manifests or videos and write a cache of each.",
    "calibrate": "Fit to some videos what all caches of a model share.",
    "index": "Do all of it for a whole archive, every night.",
    "status": "Show how far an archive has come.",
    "answer": "Answer questions about one video from its cache, or about an archive as a job.",
    "ask": "Ask one question after the other at a prompt that stays loaded.",
    "search": "Find the videos of a folder of caches that a question is about.",
    "serve": "Answer over HTTP, as OpenAI's chat completions, and in a browser.",
    "report": "Write pages of caches that a browser opens.",
    "inspect": "Show what a cache holds.",
    "verify": "Check every checksum of caches, or of all of an archive.",
    "clean": "Count or remove what a folder of caches holds for nobody any more.",
    "models": "List the model families that are supported, and their limits.",
    "evaluate": "Compare methods on the same videos, questions and model.",
    "bench": "Measure what the cache costs and saves on this machine.",
    "demo": "Draw videos, cache them, and answer questions about them.",
}
"""What each command does, in the order of `batch --help`; each is a file of this package."""

MOST_COLUMNS = 120
"""Help is wrapped to the terminal, up to so many columns; wider lines are hard to read."""

main = CommandGroup(
    name="batch",
    package="batch.cli",
    summaries=COMMANDS,
    help="Turn videos into small key-value caches once, then answer many questions from them.",
    context_settings={"max_content_width": MOST_COLUMNS},
)
click.version_option(__version__, prog_name="batch")(main)
