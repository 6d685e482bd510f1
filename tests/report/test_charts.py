import numpy as np

from batch.report.charts import Axis, area, bar, runs


def test_an_axis_has_round_times_and_places_them_in_thousandths() -> None:
    axis = Axis(start_s=10, stop_s=110)
    assert axis.ticks_s() == [15, 30, 45, 60, 75, 90, 105]
    assert [axis.x(time_s) for time_s in (0, 10, 60, 110, 200)] == [0, 0, 500, 1000, 1000]
    assert Axis(start_s=0, stop_s=3600).ticks_s() == [600 * n for n in range(7)]
    assert len(Axis(start_s=0, stop_s=90 * 3600).ticks_s()) <= 9


def test_an_area_steps_from_value_to_value_and_its_highest_fills_it() -> None:
    axis = Axis(start_s=0, stop_s=2)
    assert area(axis, [0, 1, 2], np.array([1.0, 2.0])) == "M0,40V20.0H500V0.0H1000V40Z"
    assert area(axis, [0, 1, 2], np.zeros(2)) == ""


def test_of_many_values_a_single_high_one_is_still_seen() -> None:
    values = np.zeros(5_000)
    values[1_234] = 3
    path = area(Axis(start_s=0, stop_s=5_000), np.arange(5_001.0), values)
    assert path.count("V0.0") == 1
    assert path.count("H") == 1_000


def test_a_bar_is_never_too_thin_to_be_seen() -> None:
    assert bar(Axis(start_s=0, stop_s=1e6), 5, 5.001).wide == 0.5


def test_runs_are_the_stretches_of_what_is_set() -> None:
    assert runs(np.array([1, 1, 0, 1], bool)) == [(0, 2), (3, 4)]
    assert runs(np.zeros(3, bool)) == []
