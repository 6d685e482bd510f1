"""From a cache and its model to replies; the video is never touched."""

from batch.answering.answerer import Answerer, Loading, PrefixAnswerer, Reply

__all__ = ["Answerer", "Loading", "PrefixAnswerer", "Reply"]
