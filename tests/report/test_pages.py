"""What pages say of a video and its answers, and that nobody can put anything else into them."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np
import pytest

from batch.report.drawing import Layer, Rest, clock, draw
from batch.report.pages import AnsweredVideo, ShownAnswer, answers_page, video_page
from batch.report.pictures import MOST_PICTURES, choose
from batch.report.rendering import in_bytes
from tests.report.videos import drawn

HOSTILE = "</style><script>alert(1)</script><img src=//evil/x onerror=alert(1)>\udce9\" '"


class Tags(HTMLParser):
    """What tags and attributes a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]


def shown(text: str, evidence: Sequence[tuple[float, float]] = ()) -> ShownAnswer:
    return ShownAnswer(question="who?", text=text, evidence=evidence)


def test_a_page_holds_nothing_that_names_questions_or_answers_bring_in() -> None:
    video = drawn(name=f"{HOSTILE.replace('/', '∕')}.mp4")
    answer = ShownAnswer(question=HOSTILE, text=HOSTILE, truth=HOSTILE, remark=HOSTILE)
    answered = AnsweredVideo(video=video, answers=[answer], page="a.html")
    for page in (
        video_page(video, downloads={"CSV": "x.csv"}),
        answers_page([answered], title=HOSTILE, introduction=HOSTILE, up="index.html"),
    ):
        tags = Tags()
        tags.feed(page)
        assert not tags.names & {"img", "iframe", "object", "link", "base"}
        assert page.count("<script") == page.count("</style>") == 1
        assert not [name for name in tags.attributes if name.startswith("on")]
        styles = re.findall(r"url\(([^)]+)\)", page)
        assert all(address.startswith("data:image/") for address in styles)
        assert set(tags.addresses) <= {"index.html", "a.html", "x.csv"}
        page.encode()


def test_pointers_are_pale_and_show_the_picture_of_their_source_which_is_there_once() -> None:
    found = draw(drawn(8, pointers=2))
    assert [frame.kind for frame in found.frames] == ["kept"] * 6 + ["pointer"] * 2
    assert [frame.picture for frame in found.frames[5:]] == ["p5"] * 3
    assert sorted(name for name in found.pictures if name[0] == "p") == [f"p{n}" for n in range(6)]
    assert (found.frames[5].note, found.frames[6].note) == ("3×", "pointer")
    assert [frame.scene for frame in found.frames] == [1, None, None, None, 2, *[None] * 3]


def test_samples_that_an_answer_rests_on_are_framed_pointers_of_that_time_among_them() -> None:
    rests = [Rest(evidence=[(0.0, 1.0)]), Rest(evidence=[(5.0, 7.0)])]
    found = draw(drawn(8), rests)
    assert [frame.answers for frame in found.frames] == [[1], *[()] * 4, [2], [2], ()]
    (marks,) = [bars for bars in found.bars if bars.name == "rests on"]
    assert [(row.bar.x, row.bar.wide, row.answers) for row in marks.rows] == [
        (0.0, 125.0, [1]),
        (625.0, 250.0, [2]),
    ]


def test_cells_are_drawn_over_samples_only_where_the_model_said_how_much_each_counts() -> None:
    weights = np.array([1, 0, 0, 0], np.float32)
    rest = Rest(evidence=[(0.0, 1.0)], cells={0: weights})
    found = draw(drawn(8), [rest, rest], with_tiers=False)
    layers = [Layer(kind="cells", picture=f"c{number}s0", answer=number) for number in (1, 2)]
    assert [frame.layers for frame in found.frames[:2]] == [layers, []]
    answer = ShownAnswer(question="q", text="a", cells={0: weights})
    for answers, has_box in (([answer], True), ([shown("a")], False)):
        page = answers_page([AnsweredVideo(video=drawn(8), answers=answers)], title="t")
        assert ('id="cells"' in page) == has_box


def test_a_long_video_fits_a_page_and_says_what_it_leaves_out() -> None:
    video = drawn(400, pointers=100)
    found = draw(video, [Rest(evidence=[(150.0, 151.0)])])
    assert len(found.frames) == MOST_PICTURES
    assert 150 in [int(frame.picture[1:]) for frame in found.frames]
    assert found.frames[-1].hidden.endswith("100 redundant")
    assert len(video_page(video)) < 400_000


def test_what_matters_is_chosen_first_and_the_rest_evenly() -> None:
    kept = np.ones(100, bool)
    kept[50] = False
    assert choose(kept[:5], (), (), 5) == [0, 1, 2, 3, 4]
    chosen = choose(kept, [7, 8], [90], 10)
    assert len(chosen) == 10
    assert {0, 7, 8, 90} <= set(chosen)
    assert 50 not in chosen
    assert max(np.diff(chosen)) < 25


def test_a_likelihood_is_shown_only_where_it_was_measured_and_wrong_answers_say_the_truth() -> None:
    answers = [
        ShownAnswer(question="q", text="a", likelihood=float(np.log(0.25))),
        ShownAnswer(question="q", text="b", truth="c", remark="wrong"),
    ]
    page = answers_page([AnsweredVideo(video=drawn(), answers=answers)], title="t")
    assert page.count("<meter") == 1
    assert "25% likely a token" in page
    assert "wrong; truth: c" in page


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.96, "1:00"), (61.5, "1:01.5"), (3723, "1:02:03")]
)
def test_times_read_as_players_show_them(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 bytes"), (16_387, "16.4 kB"), (345_650, "346 kB"), (2e13, "20.0 TB")],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert in_bytes(count) == text
