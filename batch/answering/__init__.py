"""From a cache and its model to answers; the video is never touched.

`open_cache` opens the cache of a video for questions, `to_dynamic_cache` makes it transformers'
own. `PrefixAnswerer` asks any prefix in memory, `Retriever` what a question is about.
"""

from batch.answering.answerer import Answer, PrefixAnswerer, Turns
from batch.answering.exporting import GenerateInputs, to_dynamic_cache
from batch.answering.retrieval import RetrievedAnswer, Retriever
from batch.answering.video import (
    Candidate,
    ChosenAnswer,
    Loading,
    VideoAnswerer,
    open_cache,
)
from batch.settings import AnswerSettings
from batch.video import TimeRange

__all__ = [
    "Answer",
    "AnswerSettings",
    "Candidate",
    "ChosenAnswer",
    "GenerateInputs",
    "Loading",
    "PrefixAnswerer",
    "RetrievedAnswer",
    "Retriever",
    "TimeRange",
    "Turns",
    "VideoAnswerer",
    "open_cache",
    "to_dynamic_cache",
]
