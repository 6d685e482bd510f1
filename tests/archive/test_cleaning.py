"""`batch clean`: counts what nobody needs, removes it when told to, and nothing else."""

from pathlib import Path

from batch.archive.store import Store
from batch.settings import CacheSettings
from jobs.records import write_object
from jobs.runs import Run
from jobs.shards import Shard
from tests.archive.conftest import IndexedArchive
from tests.archive.indexing import run_index
from tests.cli.running import batch, objects, stamps, succeed


def test_a_folder_in_use_has_nothing_to_clean(indexed: IndexedArchive) -> None:
    result = batch("clean", indexed.out)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing to clean\n")


def test_what_nobody_needs_is_counted_and_then_removed_and_nothing_else(
    archive: Path, fresh_out: Path, model: Path
) -> None:
    original = CacheSettings(positions="original")
    run_index(archive, fresh_out, model, cache=original)
    run_index(archive, fresh_out, model)
    (archive / "2025" / "no suffix").unlink()
    run_index(archive, fresh_out, model)
    dead = fresh_out / "runs" / "20300101T000000-host-1-abcd"
    dead.mkdir()
    (dead / "unfinished").write_bytes(b"x" * 100)
    old, last = Store(fresh_out).all_caches()
    for work in (old, last):  # what each answered
        write_object(
            fresh_out / "answers" / f"of {work.id}" / "settings.json", {"work": work.id}, fresh_out
        )
    stranger = old.folder / "notes"
    stranger.write_text("not ours")
    before = stamps(fresh_out)
    old_files = {name for name in before if old.id in name} - {f"works/{old.id}/notes"}

    found = {row["kind"]: row for row in objects(succeed("clean", fresh_out, "--json"))}
    assert stamps(fresh_out) == before
    assert (found["old"]["files"], found["gone"]["files"], found["runs"]["files"]) == (
        len(old_files),
        4,  # manifest, cache and their records
        1,
    )
    assert found["old"]["size_bytes"] == sum(before[name][1] for name in old_files)
    assert "last at" in found["gone"]["what"]
    assert found["runs"]["size_bytes"] == 100

    batch("clean", fresh_out, "--yes", "--only", "runs")
    assert stamps(fresh_out).keys() == before.keys() - {f"runs/{dead.name}/unfinished"}
    result = batch("clean", fresh_out, "--yes")
    assert f"{len(old_files) + 4:,} files, " in result.stderr
    left = stamps(fresh_out)
    assert left.keys() <= before.keys()
    assert all(left[name] == before[name] for name in left)
    assert [name for name in left if old.id in name] == [f"works/{old.id}/notes"]
    assert len(last.finished()) == 2
    assert run_index(archive, fresh_out, model).files == []
    assert batch("clean", fresh_out).stderr == "nothing to clean\n"


def test_nothing_is_gone_where_no_file_is_known(copied_out: Path) -> None:
    for rows in (copied_out / "files").iterdir():
        rows.unlink()
    assert succeed("clean", copied_out) == []


def test_nothing_is_cleaned_while_a_run_is_at_work(copied_out: Path) -> None:
    with Run.begin(copied_out, {"something": Shard()}):
        result = batch("clean", copied_out, "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is at work since" in result.stderr
