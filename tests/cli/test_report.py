"""`batch report`, and the pages and files that other commands write."""

import json
import shutil
from pathlib import Path

from tests.cli.running import batch, objects, stamps, succeed


def test_a_folder_becomes_a_page_of_each_cache_and_one_of_all(made: Path, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    found = objects(succeed("report", made, "--out", pages, "--json"))
    page, index = pages / "videos" / "clip.safetensors.html", pages / "index.html"
    assert [(one["page"], one["written"]) for one in found] == [
        (str(page), True),
        (str(index), True),
    ]
    assert '<a href="videos/clip.safetensors.html">' in index.read_text()
    text = page.read_text()
    assert '<a href="../index.html">' in text
    for to in ("csv", "vtt", "json"):
        assert f'href="clip.safetensors.scenes.{to}" download' in text
        assert page.with_suffix(f".scenes.{to}").stat().st_size
    assert not list(pages.rglob(".*"))


def test_a_file_and_a_folder_of_one_stem_have_a_page_each(made: Path, tmp_path: Path) -> None:
    caches = Path(shutil.copytree(made, tmp_path / "caches"))
    (caches / "clip.segments").mkdir()
    shutil.copy(made / "clip.safetensors", caches / "clip.segments" / "00000.safetensors")
    succeed("report", caches, "--out", tmp_path / "pages")
    pages = sorted((tmp_path / "pages" / "videos").glob("*.html"))
    assert [page.name for page in pages] == ["clip.safetensors.html", "clip.segments.html"]
    index = (tmp_path / "pages" / "index.html").read_text()
    assert all(f'href="videos/{page.name}"' in index for page in pages)


def test_a_page_is_written_again_only_if_what_it_shows_changed(made: Path, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    succeed("report", made / "clip.safetensors", "--out", pages)
    before = stamps(pages)
    again = batch("report", made / "clip.safetensors", "--out", pages)
    assert again.stderr.startswith("1 skipped; ")
    assert stamps(pages) == before
    forced = batch("report", made / "clip.safetensors", "--out", pages, "--force")
    assert forced.stderr.startswith("1 done; ")
    succeed("report", made / "clip.parquet", "--out", pages)
    assert "bytes a second" not in (pages / "clip.html").read_text()


def test_a_damaged_cache_costs_its_page_and_is_named_on_that_of_all(
    made: Path, tmp_path: Path
) -> None:
    caches = Path(shutil.copytree(made, tmp_path / "caches"))
    (caches / "<b>.safetensors").write_bytes((caches / "clip.safetensors").read_bytes()[:-1])
    (caches / "clip.safetensors").rename(caches / "lost.safetensors")  # its manifest is another's
    shutil.copy(made / "clip.safetensors", caches / "clip.safetensors")
    some = batch("report", caches, "--out", tmp_path / "pages")
    assert some.exit_code == 3
    assert some.stderr.count("error: ") == 2
    assert "lost.safetensors: the manifest it was made of" in some.stderr
    index = (tmp_path / "pages" / "index.html").read_text()
    assert "&lt;b&gt;.safetensors" in index
    assert "is truncated" in index


def test_what_is_no_cache_is_wrong_usage(clip: Path, made: Path, tmp_path: Path) -> None:
    for words in ((clip,), (tmp_path,), (made, "--match", "*")):
        refused = batch("report", *words, "--out", tmp_path / "pages")
        assert (refused.exit_code, refused.stdout) == (2, "")
    assert not (tmp_path / "pages").exists()


def test_answers_are_also_written_as_a_page_and_as_times_for_players(
    cache: Path, tmp_path: Path
) -> None:
    page, cues = tmp_path / "new" / "a.html", tmp_path / "a.vtt"
    asked = ("answer", cache, "-q", "what <is> it?", "--max-new-tokens", 2)
    (line,) = succeed(*asked, "--html", page, "--evidence", cues, "--json")
    found = json.loads(line)
    text = page.read_text()
    assert "what &lt;is&gt; it?" in text
    assert text.count('class="mark on"') == len(found["evidence"]) > 0
    assert cues.read_text().count(" --> ") == len(found["evidence"])
    refused = batch(*asked, "--evidence", tmp_path / "a.txt")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "expected a .csv, .vtt or .json" in refused.stderr


def test_inspect_draws_tiers_without_the_video(cache: Path, tmp_path: Path) -> None:
    succeed("inspect", cache, "--pictures", tmp_path / "drawn")
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["clip.png"]
