"""ThinK: channels of keys that hardly change a score are left out."""

from dataclasses import dataclass

from batch.evaluation.methods.row_method import Codec, Held, Queries, Rows, fp16, highest

_NEUTRAL = Queries("neutral")


@dataclass(frozen=True, kw_only=True)
class ThinK(Codec):
    """The key channels of each head with the least mean q^2 times mean k^2 are not stored.

    Source: ThinK (arXiv 2407.21018), share of 0.4 and score read in its authors' code and in
    NVIDIA's kvpress. Departures: queries are those of a question about nothing behind the prefix,
    not the last 32 of the prompt; a left out channel is 0, which gives the scores that queries
    without it do.
    """

    name = "think"
    rotated = True

    share: float = 0.4

    @property
    def observed(self) -> tuple[Queries, ...]:
        return (_NEUTRAL,)

    def encode(self, rows: Rows) -> Held:
        layers, tokens, heads, head_dim = rows.key.shape
        effect = rows.attention[_NEUTRAL].query_square * rows.key.square().mean(1)
        stays = highest(effect, head_dim - round(self.share * head_dim))
        numbers = tokens * (int(stays.sum()) + stays.numel())
        size_bytes = 2 * numbers + layers * heads * -(-head_dim // 8)
        return Held(fp16(rows.key) * stays[:, None], fp16(rows.value), size_bytes)
