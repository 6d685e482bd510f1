"""The transform codec as a scheme of a judge."""

import torch

from batch.evaluation.judges.schemes import SCHEMES, Scheme
from batch.evaluation.methods.row_method import Rows


def rows(tokens: int, seed: int) -> Rows:
    """Rows with few hidden causes, the same in both kinds and all seven layers."""
    drawn = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 7 * 2 * 2 * 8, generator=torch.Generator().manual_seed(0))
    x = torch.randn(tokens, 6, generator=drawn) @ mixing
    key, value = x.view(tokens, 7, 2, 2, 8).permute(2, 1, 0, 3, 4)
    return Rows(key=key, value=value)


def stored(scheme: Scheme) -> tuple[float, int]:
    """Mean square error in units of the rows', and bytes."""
    true = rows(50, seed=1)
    key, value, size_bytes, _ = scheme.store(true)
    assert key.shape == value.shape == true.key.shape
    error = (key - true.key).square().mean() + (value - true.value).square().mean()
    return float(error / (true.key.square().mean() + true.value.square().mean())), size_bytes


def test_a_calibrated_transform_finds_what_other_rows_have_in_common() -> None:
    coarse, fine = (
        next(one for one in SCHEMES if str(one.label) == name).fit(rows(300, seed=2))
        for name in ("klt small, calibrated", "klt standard, calibrated")
    )
    coarse_error, coarse_bytes = stored(coarse)
    fine_error, fine_bytes = stored(fine)
    assert fine_error < coarse_error < 0.02
    assert coarse_bytes < fine_bytes < rows(50, seed=1).fp16_bytes / 20


def test_the_basis_of_a_context_is_counted() -> None:
    [own] = [one for one in SCHEMES if str(one.label) == "klt small"]
    error, size_bytes = stored(own)
    calibrated = next(one for one in SCHEMES if str(one.label) == "klt small, calibrated")
    assert error < 0.1
    assert size_bytes > stored(calibrated.fit(rows(300, seed=2)))[1]
