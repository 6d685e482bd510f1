"""Videos longer than the model's context, in an archive."""

import shutil
from pathlib import Path

import pytest

from batch.archive.inventory import Inventory
from batch.archive.store import Store
from batch.archive.tasks import Prefill
from batch.archive.workers import Workers, make_model_handler
from cachefmt import CacheFile, CacheFileError, open_segments, verify_segments
from cachefmt.segments import segments_in
from jobs.disk_space import DiskSpace
from tests import clips, tiny
from tests.archive import handlers
from tests.archive.archives import draw_video
from tests.archive.contents import catalogue, contents
from tests.archive.indexing import remember, run_index, settings_of
from tests.cli.running import batch, objects, stamps, succeed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("models") / "small", context=290)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of one segment, and one of several."""
    archive = tmp_path_factory.mktemp("archive")
    draw_video(archive / "short.mp4", seed=1, seconds=2)
    draw_video(archive / "long.mp4", seed=2, seconds=20)
    return archive


@pytest.fixture(scope="module")
def known(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches that knows the model, and holds none."""
    return remember(model, tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def made(model: Path, archive: Path, known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    out = Path(shutil.copytree(known, tmp_path_factory.mktemp("made") / "caches"))
    succeed("index", archive, "--out", out, "--model", model)
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "caches"))


def long_row(out: Path) -> dict[str, object]:
    (row,) = (row for row in catalogue(out) if row["path"].endswith("long.mp4"))
    return row


def folder_of(out: Path) -> Path:
    (folder,) = out.rglob("*.segments")
    return folder


def task_of(out: Path) -> Prefill:
    """To prefill the long video."""
    store = Store(out)
    rows = Inventory.read(store.files).there()
    (row,) = (row for row in rows if row.path.endswith("long.mp4"))
    (manifests,), (caches,) = store.all_manifests(), store.all_caches()
    return Prefill(
        row=row,
        ready_s=0.0,
        manifest=manifests.product(row.video),
        staged=out / "runs" / "long.safetensors",
        target=caches.file_of(row.video),
        segments=caches.folder_of(row.video),
        calibrations=out,
        allowance=DiskSpace(out, None).allowance(),
    )


def test_a_long_video_is_done_as_a_folder_of_segments(made: Path) -> None:
    row = long_row(made)
    folder = folder_of(made)
    assert (row["status"], row["cache"]) == ("done", str(folder.relative_to(made)))
    segments = open_segments(folder)
    verify_segments(segments)
    assert row["segments"] == len(segments) > 2
    assert row["cache_bytes"] == sum(segment.size_bytes for segment in segments)
    assert row["slots"] == sum(segment.header.layout.slots for segment in segments)
    for tier in ("FP16", "INT8", "INT4"):
        tokens = sum(segment.header.shape.tokens[tier] for segment in segments)
        assert row[f"tokens_{tier.lower()}"] == tokens
    assert {row["segments"] for row in catalogue(made)} == {1, len(segments)}


def test_a_second_run_does_nothing(archive: Path, model: Path, made: Path) -> None:
    before = stamps(made)
    result = batch("index", archive, "--out", made, "--model", model)
    assert (result.exit_code, result.stdout) == (0, "")
    assert stamps(made) == before


def test_status_sums_over_segments(made: Path) -> None:
    (found,) = objects(succeed("status", made, "--json"))
    (work,) = found["works"]
    caches = (made / "works").rglob("*.safetensors")
    assert work["cache_bytes"] == sum(cache.stat().st_size for cache in caches)


def test_the_archive_is_asked_whatever_its_caches_are(made: Path) -> None:
    asked = ("-q", "what is the red star doing ?", "--max-new-tokens", 4)
    found = {Path(row["path"]).name: row for row in objects(succeed("answer", made, *asked))}
    (whole,) = found["short.mp4"]["answers"]
    (chosen,) = found["long.mp4"]["answers"]
    assert "candidates" not in whole
    alone = objects(succeed("answer", folder_of(made), *asked, "--json"))[0]
    assert chosen.pop("evidence_samples")
    assert chosen.pop("seconds") > 0
    assert chosen == {name: alone[name] for name in chosen}


def test_a_segment_that_is_lost_is_named_and_made_again_by_the_next_run_and_no_other(
    archive: Path, model: Path, made: Path, copy: Path
) -> None:
    folder = folder_of(copy)
    before = stamps(folder)
    (folder / "00001.safetensors").unlink()
    lost = batch("answer", copy, "-q", "a b", "--max-new-tokens", 2)
    assert "00001.safetensors: is missing" in lost.stderr
    assert "or batch index where it wrote them" in lost.stderr
    others = [("error" in row) for row in objects(lost.stdout.splitlines())]
    assert (lost.exit_code, others.count(False)) == (3, 1)
    assert succeed("index", archive, "--out", copy, "--model", model) == [str(folder)]
    after = stamps(folder)
    assert [name for name in after if after[name] != before.get(name)] == ["00001.safetensors"]
    assert contents(copy) == contents(made)


def test_of_segments_only_a_damaged_one_is_made_again(model: Path, copy: Path) -> None:
    folder = folder_of(copy)
    clips.truncate(folder / "00001.safetensors", keep=0.5)
    before = stamps(folder)
    make_model_handler(settings_of(model), "cpu", 1, lambda: None)(task_of(copy))
    after = stamps(folder)
    assert [name for name in after if after[name] != before[name]] == ["00001.safetensors"]


def test_a_prefill_tells_its_progress_once_it_is_loaded_and_behind_each_block(
    model: Path, copy: Path
) -> None:
    blocks = 0
    for segment in segments_in(folder_of(copy)):
        with CacheFile.open(segment) as cache:
            together = cache.header.policy.parameters["block_samples"]
            assert isinstance(together, int)
            blocks += -(-cache.header.shape.stored_samples // together)
        segment.unlink()
    told: list[str] = []
    make_model_handler(settings_of(model), "cpu", 1, lambda: told.append("block"))(task_of(copy))
    assert len(told) == 1 + blocks


def test_what_is_no_cache_stays_where_segments_are_made(model: Path, copy: Path) -> None:
    folder = folder_of(copy)
    for segment in segments_in(folder):
        segment.unlink()
    folder.rmdir()
    folder.write_text("mine")
    with pytest.raises(CacheFileError, match="is no folder"):
        make_model_handler(settings_of(model), "cpu", 1, lambda: None)(task_of(copy))
    assert folder.read_text() == "mine"


def test_a_run_that_is_killed_loses_at_most_the_segment_in_work(
    archive: Path, model: Path, made: Path, fresh_out: Path
) -> None:
    killed = Workers(model=handlers.make_model_that_is_killed_in_a_second_segment)
    assert run_index(archive, fresh_out, model, killed).tally.failures == 1
    row = long_row(fresh_out)
    assert (row["status"], row["reason"]) == ("failed", "worker_killed")
    folder = folder_of(fresh_out)
    before = stamps(folder)
    assert list(before) == ["00000.safetensors"]
    assert run_index(archive, fresh_out, model, Workers(), retry_failed=True).tally.failures == 0
    assert stamps(folder)["00000.safetensors"] == before["00000.safetensors"]
    assert contents(fresh_out) == contents(made)


def test_what_another_cut_or_version_left_is_not_mixed_in(
    archive: Path, model: Path, made: Path, copy: Path
) -> None:
    folder = folder_of(copy)
    foreign = (folder / "00002.safetensors").read_bytes()
    (folder / "00000.safetensors").write_bytes(foreign)
    next((copy / "works").rglob(f"done/*/{folder.stem}.json")).unlink()
    succeed("index", archive, "--out", copy, "--model", model)
    assert contents(copy) == contents(made)


def test_a_quota_that_holds_the_whole_archive_is_enough(
    archive: Path, model: Path, made: Path, known: Path, tmp_path: Path
) -> None:
    enough, few = (Path(shutil.copytree(known, tmp_path / name)) for name in ("enough", "few"))
    size_bytes = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    command = ("index", archive, "--model", model, "--max-bytes")
    succeed(*command, size_bytes + 10_000, "--out", enough)
    row = long_row(made)
    refused = batch(*command, size_bytes - int(str(row["cache_bytes"])), "--out", few)
    assert refused.exit_code == 1
    assert "--max-bytes is reached" in refused.stderr
