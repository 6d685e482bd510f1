"""VideoScan, untrained: a sample's last rows speak for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from batch.evaluation.methods.row_method import Eviction, Rows, text_first


@dataclass(frozen=True, kw_only=True)
class VideoScan(Eviction):
    """The last rows of every sample, as many of each; a causal model may sum the sample up there.

    Source: VideoScan (arXiv 2503.09387): one carrier a frame, behind the frame's tokens, alone
    stays. From its abstract. Departure, and no small one: it is trained to carry the frame; here
    the rows that happen to be last do, without training.
    """

    name = "videoscan"
    needs_samples = True

    shared: bool = True

    def scores(self, rows: Rows, count: int) -> Tensor:
        ends = torch.searchsorted(rows.sample, rows.sample, right=True)
        behind = ends - torch.arange(rows.tokens)
        return text_first((rows.tokens - behind).float(), rows).expand(rows.shape)
