"""From a cache and its model to replies; the video is never touched."""

from batch.answering.answerer import Loading, PrefixAnswerer, Reply
from batch.answering.everywhere import Candidate, ChosenReply
from batch.answering.placed import Answerer
from batch.answering.retrieval import RetrievedReply, Retriever
from batch.answering.video import Scope, VideoAnswerer

__all__ = [
    "Answerer",
    "Candidate",
    "ChosenReply",
    "Loading",
    "PrefixAnswerer",
    "Reply",
    "RetrievedReply",
    "Retriever",
    "Scope",
    "VideoAnswerer",
]
