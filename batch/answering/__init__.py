"""From a cache and its model to replies; the video is never touched."""

from batch.answering.answerer import Answerer, Reply

__all__ = ["Answerer", "Reply"]
