"""What a run and the status report: to people, to programs and to Prometheus."""

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batch import archive as batch_archive
from batch.archive.catalogue import SCHEMA
from batch.archive.status import _per_hour, _Span
from batch.archive.store import Store
from batch.archive.tally import MetricsFile, Tally, metrics
from batch.cli.reporting import Reporter
from batch.errors import BatchError, Reason
from jobs.records import Ledger
from jobs.runs import Run
from jobs.shards import Shard
from jobs.stopping import Stop
from tests import clips
from tests.archive.conftest import IndexedArchive
from tests.archive.contents import catalogue
from tests.cli.running import batch, objects, succeed


def test_results_are_paths_or_records_on_stdout(indexed: IndexedArchive, fresh_out: Path) -> None:
    assert all(Path(line).is_file() for line in indexed.result.stdout.splitlines())
    command = ("index", indexed.archive, "--out", fresh_out, "--model", indexed.model, "--phase")
    batch(*command, "identify")
    lines = objects(succeed(*command, "analyze", "--json"))
    assert {line["path"] for line in lines} == set(map(str, indexed.originals.values()))
    assert all(line["manifest_bytes"] == Path(line["file"]).stat().st_size for line in lines)


def test_a_log_in_json_has_an_object_for_every_event(
    indexed: IndexedArchive, tmp_path: Path
) -> None:
    command = ("index", indexed.archive, "--out", tmp_path / "out", "--model", "demo")
    command += ("--phase", "identify")
    events = objects(batch(*command, "--log-format", "json").stderr.splitlines())
    failed = {event["path"]: event["reason"] for event in events if event["event"] == "failed"}
    assert failed == {str(path): reason.value for path, reason in indexed.hostile.items()}
    end = events[-1]
    assert (end["event"], end["level"], sum(end["failed"].values())) == ("end", "info", 10)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", event["time"]) for event in events)


def test_a_line_a_minute_is_said_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    reporter = Reporter("text", as_json=False, metrics_file=None)
    tally = Tally(to_do=10, done=3, given_up=1, started_s=0.0)
    for clock["now"] in (10.0, 59.0, 61.0, 62.0, 120.0, 122.0):
        tally.under_way = ["prefill a.mp4"] if clock["now"] > 100 else []
        reporter.ticked(tally)
    assert capsys.readouterr().err.splitlines() == [
        "index: 3 of 10 videos, 0 failed, 236.1 an hour, 92 s to go",
        "index: 3 of 10 videos, 0 failed, 118.0 an hour, 3 min to go; prefill a.mp4",
    ]


def test_metrics_are_a_textfile_with_the_time_of_the_last_success(
    indexed: IndexedArchive, tmp_path: Path
) -> None:
    file = tmp_path / "sali_cache.prom"
    command = ("index", indexed.archive, "--out", indexed.out, "--model", indexed.model)
    batch(*command, "--metrics-file", file)
    text = file.read_text()
    assert re.search(r'^sali_cache_videos\{status="skipped"\} 3$', text, re.MULTILINE)
    assert re.search(r'^sali_cache_failed_videos\{reason="empty"\} 1$', text, re.MULTILINE)
    assert re.search(r"^sali_cache_last_success_timestamp_seconds \d{10}\.\d+$", text, re.MULTILINE)
    named = re.findall(r"^# TYPE (\S+) gauge$", text, re.MULTILINE)
    assert set(re.findall(r"^(sali_cache_\w+)", text, re.MULTILINE)) == set(named)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_run_that_did_not_succeed_keeps_the_time_of_the_one_that_did(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    MetricsFile(path).end(Tally(), success=True)
    before = last_success(path)
    failing = MetricsFile(path)
    failing.update(Tally())
    failing.end(Tally(done=1), success=False)
    assert last_success(path) == before
    MetricsFile(path).end(Tally(), success=True)
    assert last_success(path) > before


def last_success(path: Path) -> float:
    (value,) = re.findall(r"^sali_cache_last_success\S* (\S+)$", path.read_text(), re.MULTILINE)
    return float(value)


def test_metrics_name_seconds_and_bytes_of_the_run() -> None:
    tally = Tally(to_do=5, done=2, given_up=1, written_bytes=7)
    tally.failed[Reason.EMPTY] += 1
    tally.seconds["prefill"] += 1.5
    text = metrics(tally, None)
    assert 'sali_cache_videos{status="pending"} 2\n' in text
    assert "sali_cache_written_bytes 7\n" in text
    assert 'sali_cache_work_seconds{phase="prefill"} 1.500\n' in text
    assert "last_success" not in text


def test_a_metrics_file_that_cannot_be_written_any_more_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])
    folder = tmp_path / "metrics"
    with pytest.raises(BatchError):
        MetricsFile(folder / "x.prom").update(Tally())
    folder.mkdir()
    file = MetricsFile(folder / "x.prom")
    file.update(Tally())
    (folder / "x.prom").unlink()
    folder.rmdir()
    clock["now"] = 60.0
    file.update(Tally())
    with pytest.raises(BatchError, match=r"x\.prom: cannot be written: No such file"):
        file.end(Tally(), success=True)


def test_a_stopped_run_says_by_what(capsys: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    stop.ask(signal.SIGUSR1)
    Reporter("text", as_json=False, metrics_file=None).end(Tally(to_do=3, done=1), stop)
    said = capsys.readouterr().err
    assert said.startswith("stopped by SIGUSR1, the same command goes on; 1 done, 2 left; ")


def at(hour: float) -> datetime:
    return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(hours=hour)


@pytest.mark.parametrize(
    ("spans", "per_hour"),
    [
        ({}, None),
        ({0: (2, 0)}, None),  # at work, nothing done yet
        ({0: (2, 10)}, 5.0),  # from the beginning of the run, not from its first video
        ({0: (1, 100), 24: (26, 10)}, 5.0),  # the night before counts no more
        ({0: (4, 10), 1: (5, 15)}, 5.0),  # tasks side by side
    ],
)
def test_the_rate_is_that_of_the_work_of_the_last_runs(
    spans: dict[float, tuple[float, int]], per_hour: float | None
) -> None:
    found = {at(began): _Span(at(until), done) for began, (until, done) in spans.items()}
    assert _per_hour(found) == per_hour


def test_status_counts_what_the_catalogue_holds(indexed: IndexedArchive) -> None:
    (found,) = objects(succeed("status", indexed.out, "--json"))
    (work,) = found["works"]
    rows = catalogue(indexed.out)
    done = [row for row in rows if row["status"] == "done"]
    assert (found["files"], found["videos"], found["new"], found["other"]) == (17, 3, 0, 2)
    assert (work["done"], work["pending"], work["gone"]) == (3, 0, 0)
    assert sum(work["failed"].values()) == 10
    assert work["cache_bytes"] == sum(row["cache_bytes"] for row in done)
    assert work["seconds"]["analyze"] == pytest.approx(sum(row["analyze_seconds"] for row in done))
    assert work["videos_per_hour"] > 0
    said = "\n".join(succeed("status", indexed.out))
    for part in ("17: 3 videos, 2 others", "done       3", "not_video       6", "x smaller"):
        assert part in said


def test_a_damaged_catalogue_is_no_loss(copied_out: Path) -> None:
    (path,) = (copied_out / "catalogue").iterdir()
    clips.truncate(path, keep=0.5)
    (found,) = objects(succeed("status", copied_out, "--json"))
    assert found["works"][0]["done"] == 3


def test_damaged_settings_are_named(copied_out: Path) -> None:
    (settings,) = copied_out.glob("works/*/settings.json")
    settings.write_text("{")
    result = batch("status", copied_out)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {settings}: no settings (")


def test_damaged_facts_of_a_model_are_named(indexed: IndexedArchive, fresh_out: Path) -> None:
    for facts in (fresh_out / "models").iterdir():
        facts.write_text("{}")
    result = batch("index", indexed.archive, "--out", fresh_out, "--model", indexed.model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no facts of a model ('geometry'); remove it" in result.stderr


def test_status_follows_a_run_that_mends_failures(
    copied_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are read first and records later; what was mended in between has none any more."""
    (caches,) = Store(copied_out).all_caches()
    video = min(caches.finished())
    caches.product(video).unlink()
    monkeypatch.setattr(Ledger, "failed", lambda ledger: {video})
    (found,) = objects(succeed("status", copied_out, "--json"))
    assert (found["works"][0]["done"], found["works"][0]["analyzed"]) == (2, 1)


def test_status_tells_who_is_at_work(indexed: IndexedArchive) -> None:
    with Run.begin(indexed.out, {"something else": Shard(index=1, count=4)}) as run:
        said = "\n".join(succeed("status", indexed.out))
    assert f"running    process {run.info.pid} on {run.info.host} since" in said
    assert "shard 1/4 of something else" in said


def test_status_of_a_folder_that_no_run_wrote_to_names_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()  # of some other tool
    for options in ([], ["--json"]):
        result = batch("status", tmp_path, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{tmp_path}: is a folder, expected a folder of caches of" in result.stderr
        assert f"batch index ARCHIVE --model MODEL --out {tmp_path} " in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_status_of_a_run_that_has_found_nothing_yet_shows_it(tmp_path: Path) -> None:
    with Run.begin(tmp_path, {"identify": Shard()}):
        lines = succeed("status", tmp_path)
    assert lines[0] == "files      0: 0 videos, 0 others, 0 not looked at yet"
    assert len(lines) == 2
    assert succeed("status", tmp_path) == lines[:1]


def test_what_an_id_stands_for_can_be_read(indexed: IndexedArchive) -> None:
    (caches,) = Store(indexed.out).all_caches()
    settings = json.loads((caches.folder / "settings.json").read_text())
    assert (settings["model"], settings["dtype"]) == (str(indexed.model), "float32")
    (analysis,) = (indexed.out / "analyses").iterdir()
    assert settings["analysis"] == analysis.name
    analysis_settings = json.loads((analysis / "settings.json").read_text())
    assert (analysis_settings["sampling"]["rate_hz"], analysis_settings["geometry"]["rule"]) == (
        1.0,
        "Geometry",
    )


def test_the_readme_explains_every_column_of_the_catalogue_and_every_reason() -> None:
    text = Path(str(batch_archive.__file__)).with_name("README.md").read_text(encoding="utf-8")
    columns, reasons = text.split("## The catalogue")[1].split("## Reasons")
    names = ", ".join(re.findall(r"^\| ([\w, ]+) \|", columns, re.MULTILINE)[1:])
    assert sorted(names.split(", ")) == sorted(SCHEMA.names)
    assert re.findall(r"^\| (\w+) \|", reasons, re.MULTILINE)[1:] == [one.value for one in Reason]


def test_pages_of_an_index_show_what_is_done_and_why_the_rest_is_not(
    indexed: IndexedArchive, tmp_path: Path
) -> None:
    pages = objects(
        succeed("report", indexed.out, "--match", "*/2024/*", "--out", tmp_path / "some", "--json")
    )
    assert [bool(one["written"]) for one in pages] == [True] * 3  # two videos, and the list
    *_, index = succeed("report", indexed.out, "--out", tmp_path / "all")
    text = Path(index).read_text()
    videos = {Path(copy).name for copy in indexed.originals.values()}
    linked = re.findall(r'<a href="(videos/[^"]+)">([^<]+)</a>', text)
    assert {Path(name).name for _, name in linked} == videos
    assert all((tmp_path / "all" / address).is_file() for address, _ in linked)
    for reason in set(indexed.hostile.values()):
        assert f"failed: {reason}<" in text
    refused = batch("report", indexed.out, "--match", "*/1999/*", "--out", tmp_path / "none")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "no video fits --match" in refused.stderr
