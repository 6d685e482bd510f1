import numpy as np
import pytest

from batch.analysis.signals import Signals
from batch.analysis.tiers import PROFILES, TierThresholds, assign, profile_name
from cachefmt.tiers import Tier

EQ8 = TierThresholds(fp16=0.6, int8=0.3, int4=0.1, static=None)


def signals(saliency, static=None, source=None) -> Signals:
    values = np.array(saliency, np.float32)
    return Signals(
        flow_px=np.zeros_like(values),
        difference=np.zeros_like(values),
        saliency=values,
        static=np.zeros(values.shape, bool) if static is None else np.array(static),
        redundancy=np.zeros(len(values), np.float32),
        source=np.arange(len(values), dtype=np.int32)
        if source is None
        else np.array(source, np.int32),
    )


def test_a_cell_gets_the_best_tier_whose_threshold_it_reaches():
    tiers = assign(signals([[0.7, 0.6, 0.5, 0.3, 0.2, 0.1, 0.05, 0.0]]), EQ8)
    assert tiers.dtype == np.uint8
    assert tiers.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]


def test_all_cells_of_a_pointer_are_pruned():
    tiers = assign(signals([[0.7, 0.2]] * 3, source=[0, 0, 2]), EQ8)
    assert tiers.tolist() == [[0, 2], [3, 3], [0, 2]]


def test_a_static_cell_of_a_kept_sample_gets_at_most_the_static_tier():
    thresholds = TierThresholds(fp16=0.6, int8=0.3, int4=0.1, static=Tier.INT4)
    saliency, static = [[0.7, 0.4, 0.2, 0.0]] * 2, [[False] * 4, [True, False, True, True]]
    tiers = assign(signals(saliency, static=static), thresholds)
    assert tiers.tolist() == [[0, 1, 2, 3], [2, 1, 2, 3]]


def test_a_changed_cell_of_a_kept_sample_gets_at_least_the_changed_tier():
    thresholds = TierThresholds(fp16=0.6, int8=0.3, int4=0.1, static=None, changed=Tier.INT4)
    saliency, static = [[0.7, 0.0, 0.0]] * 2, [[False] * 3, [False, False, True]]
    tiers = assign(signals(saliency, static=static), thresholds)
    assert tiers.tolist() == [[0, 3, 3], [0, 2, 3]]


def test_the_profile_none_stores_everything_raw():
    tiers = assign(signals([[0.0, 1.0]] * 2, static=[[True] * 2] * 2), PROFILES["none"])
    assert (tiers == Tier.FP16).all()


def test_thresholds_survive_a_dict_and_know_their_profile():
    for name, profile in PROFILES.items():
        assert TierThresholds.from_dict(profile.to_dict()) == profile
        assert profile_name(profile) == name
    assert profile_name(EQ8) is None


def test_thresholds_out_of_order_and_unknown_tiers_are_refused():
    with pytest.raises(ValueError, match="0 <= int4 <= int8 <= fp16"):
        TierThresholds(fp16=0.3, int8=0.6, int4=0.1, static=None)
    for field in ("static", "changed"):
        with pytest.raises(ValueError, match=f"{field}: got 'INT2'"):
            TierThresholds.from_dict({**EQ8.to_dict(), field: "INT2"})


@pytest.mark.parametrize("source", [[0, 2, 2], [0, 0, 1], [-1, 1, 2]])
def test_a_pointer_to_a_later_sample_or_to_a_pointer_is_refused(source):
    with pytest.raises(ValueError, match="signals"):
        signals([[0.5]] * 3, source=source)


def test_multiplicity_counts_a_sample_and_its_pointers():
    counted = signals([[0.5]] * 5, source=[0, 0, 2, 0, 2])
    assert counted.multiplicity.tolist() == [3, 0, 2, 0, 0]
    assert counted.kept.tolist() == [True, False, True, False, False]
