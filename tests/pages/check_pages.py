"""Pages in a real browser, clicked through as a person does; run by `make test-pages`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from batch.report.archives import Work, archive_page
from batch.report.pages import AnsweredVideo, ShownAnswer, answers_page, video_page
from tests.pages.browser import Page, browsing, find_browser
from tests.report.test_archives import failure, row
from tests.report.videos import drawn

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs Chromium or Chrome")

SHOWN = "[...document.querySelectorAll('tbody tr:not([hidden]) td.name')].map(one => one.innerText)"
FRAMED = "[...document.querySelectorAll('li.on .when')].map(one => one.innerText.split('\\n')[0])"
DARKENED = (
    "[...document.querySelectorAll('.cells')]"
    ".filter(one => getComputedStyle(one).display == 'block').map(one => one.classList[1])"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of an archive of three videos, one that failed, and two answers about another."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [
        row("b.mp4", cache_bytes=9_000),
        row("a.mp4", cache_bytes=20_000, run_started=None),
        failure("<img src=x onerror=alert(1)>.mp4", "empty"),
    ]
    pages = {"caches/b.mp4": "b.html", "caches/a.mp4": "a.html"}
    text = archive_page([Work(rows=rows)], pages, title="films", subtitle="three")
    (folder / "index.html").write_text(text)
    (folder / "b.html").write_text(video_page(drawn(name="b.mp4"), up="index.html"))
    (folder / "long.html").write_text(video_page(drawn(400, pointers=100), up="index.html"))
    cells = np.eye(4, dtype=np.float32)
    answers = [
        ShownAnswer(
            question="who?",
            text="Ann",
            evidence=[(0.0, 2.0)],
            likelihood=-0.1,
            cells={0: cells[0], 1: cells[1]},
        ),
        ShownAnswer(question="when?", text="later", evidence=[(1.0, 2.0)], cells={1: cells[2]}),
    ]
    answered = AnsweredVideo(video=drawn(), answers=answers)
    (folder / "answers.html").write_text(answers_page([answered], title="two questions"))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(autouse=True)
def nothing_is_said_or_asked_for_elsewhere(page: Page) -> Iterator[None]:
    page.events.clear()
    yield
    assert page.complaints() == []
    assert all(address.startswith("file:") for address in page.requests())


def test_a_table_is_sorted_and_searched_and_a_click_opens_a_video(page: Page, folder: Path) -> None:
    page.open((folder / "index.html").as_uri())
    click = "[...document.querySelectorAll('th button')].find(one => one.innerText == '{}').click()"
    page.run(click.format("cache"))
    assert [name[0] for name in page.run(SHOWN)] == ["b", "a", "<"]  # not by its digits
    page.run(click.format("cache"))
    assert [name[0] for name in page.run(SHOWN)] == ["a", "b", "<"]  # what has none stays last
    assert page.run("document.querySelector('[aria-sort=descending]').innerText") == "cache"
    page.run(
        "{const box = document.querySelector('input[type=search]'); box.value = 'EMPTY';"
        "box.dispatchEvent(new Event('input'))}"
    )
    assert len(page.run(SHOWN)) == 1
    page.run("document.querySelector('a[href=\"b.html\"]').click()")
    page.wait_for("document.title == 'b.mp4' && document.readyState == 'complete'")
    page.run("document.querySelector('nav a').click()")
    page.wait_for("document.title == 'films'")


def test_a_sample_opens_large_and_arrows_go_on_to_the_next(page: Page, folder: Path) -> None:
    page.open((folder / "b.html").as_uri())
    drawn_over = "getComputedStyle(document.querySelector('.tiers')).display"
    assert page.run(drawn_over) == "block"
    page.run("document.querySelector('#tiers').click()")
    assert page.run(drawn_over) == "none"
    page.run("document.querySelectorAll('.strip button')[5].focus()")
    page.press("Enter")
    said = "document.querySelector('dialog[open] p').innerText"
    assert page.run(said).startswith("sample 5 at 0:05, counts 3 times: FP16 25%")
    page.press("ArrowRight")
    assert page.run(said) == "sample 6 at 0:06: a pointer to sample 5"
    size = page.run("document.querySelector('dialog .pic').getBoundingClientRect().width")
    assert size > 300
    page.press("Escape")
    assert page.run("document.querySelector('dialog').open") is False
    page.wait_for("document.activeElement.dataset.said?.startsWith('sample 6')")


def test_choosing_an_answer_by_the_keyboard_frames_what_it_rests_on(
    page: Page, folder: Path
) -> None:
    page.open((folder / "answers.html").as_uri())
    assert page.run(FRAMED) == ["0:00", "0:01"]
    assert page.run(DARKENED) == ["v0c1s0", "v0c1s1"]
    page.run("document.querySelector('.answer input').focus()")
    page.press("ArrowDown")
    assert page.run(FRAMED) == ["0:01"]
    assert page.run(DARKENED) == ["v0c2s1"]
    page.run("document.querySelector('#cells').click()")
    assert page.run(DARKENED) == []
    assert page.run("document.querySelectorAll('rect.mark.on').length") == 1


@pytest.mark.parametrize("name", ["index", "b", "long", "answers"])
def test_pages_fit_a_telephone_and_follow_light_and_dark(
    page: Page, folder: Path, name: str
) -> None:
    grounds = set()
    for width_px in (400, 1400):
        for dark in (False, True):
            page.open((folder / f"{name}.html").as_uri(), width_px=width_px, dark=dark)
            assert page.run("document.documentElement.scrollWidth") == width_px
            grounds.add(page.run("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_a_script_that_is_not_the_page_s_own_does_not_run(page: Page, folder: Path) -> None:
    text = (folder / "b.html").read_text()
    broken = folder / "injected.html"
    broken.write_text(text.replace("</main>", "<script>document.title = 'taken'</script></main>"))
    page.open(broken.as_uri())
    assert page.run("document.title") == "b.mp4"
    assert "Content Security Policy" in page.complaints()[0]
    page.events.clear()
