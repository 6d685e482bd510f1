import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.shards import Shard

ITEMS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(200)]
SHARDS = st.integers(1, 12).flatmap(
    lambda count: st.builds(Shard, index=st.integers(0, count - 1), count=st.just(count))
)


def owned(shard: Shard) -> set[str]:
    return {item for item in ITEMS if shard.owns(item)}


@given(st.integers(1, 40))
def test_every_item_is_in_exactly_one_shard(count: int) -> None:
    shards = [owned(Shard(index=index, count=count)) for index in range(count)]
    assert sum(map(len, shards)) == len(ITEMS)
    assert set().union(*shards) == set(ITEMS)


def test_an_item_s_shard_does_not_depend_on_other_items() -> None:
    shard = Shard(index=1, count=3)
    assert {item for item in ITEMS[50:] if shard.owns(item)} == owned(shard) & set(ITEMS[50:])


def test_shards_are_of_about_the_same_size() -> None:
    sizes = [len(owned(Shard(index=index, count=4))) for index in range(4)]
    assert min(sizes) > 35


def test_names_are_shared_out_too_whatever_bytes_they_hold() -> None:
    names = ["a.mp4", "b.mp4", "\udcff.mp4", "d.mp4"]
    for name in names:
        assert sum(Shard(index=index, count=3).owns_name(name) for index in range(3)) == 1


@given(SHARDS, SHARDS)
def test_shards_that_do_not_overlap_share_no_item(one: Shard, other: Shard) -> None:
    if not one.overlaps(other):
        assert not owned(one) & owned(other)
    assert one.overlaps(other) == other.overlaps(one)


def test_overlap_is_seen_between_different_numbers_of_tasks() -> None:
    half = Shard(index=1, count=2)
    assert half.overlaps(Shard(index=3, count=4))
    assert not half.overlaps(Shard(index=2, count=4))
    assert half.overlaps(Shard(index=2, count=3))


def test_a_shard_is_read_as_it_is_written() -> None:
    assert Shard.parse("3/16") == Shard(index=3, count=16)
    assert str(Shard(index=3, count=16)) == "3/16"


@pytest.mark.parametrize("text", ["", "3", "16/16", "-1/2", "a/2", "1/0", "1/2/3", "1.0/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Shard.parse(text)
