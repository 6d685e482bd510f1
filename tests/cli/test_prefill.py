"""`batch prefill`: from manifests and from videos; what it prints, writes, skips and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.making import maker
from batch.report.tiers import REUSED
from batch.report.videos import VideoReport
from tests import clips, tiny
from tests.cli.running import batch, objects, stamps, succeed
from tests.tiny.llava import llava_onevision


def inspected(cache: Path) -> dict[str, Any]:
    return objects(succeed("inspect", cache, "--json"))[0]


def test_a_manifest_becomes_a_cache_whose_path_is_the_only_result(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    result = batch("prefill", manifest, "--out", tmp_path / "a" / "b", "--model", model)
    target = tmp_path / "a" / "b" / "clip.safetensors"
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert f"1 done; {target.stat().st_size:,} bytes, " in result.stderr
    assert batch("verify", target).exit_code == 0


def test_a_video_becomes_the_same_cache_as_its_manifest_which_lands_beside_it(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    straight, through = tmp_path / "straight", tmp_path / "through"
    succeed("prefill", clip, "--out", straight, "--model", model)
    succeed("analyze", clip, "--out", through, "--model", model)
    succeed("prefill", through / "clip.parquet", "--out", through, "--model", model)
    assert sorted(stamps(straight)) == ["clip.parquet", "clip.safetensors"]
    one, other = (inspected(folder / "clip.safetensors") for folder in (straight, through))
    del one["cache"], other["cache"], one["seconds"], other["seconds"]
    assert one == other


def test_results_come_in_the_order_of_the_inputs(
    model: Path, manifest: Path, clip: Path, tmp_path: Path
) -> None:
    first, last = tmp_path / "z.parquet", tmp_path / "a.mp4"
    shutil.copy(manifest, first)
    shutil.copy(clip, last)
    lines = succeed("prefill", first, last, "--out", tmp_path, "--model", model)
    assert lines == [str(tmp_path / "z.safetensors"), str(tmp_path / "a.safetensors")]


def test_json_lines_have_stable_keys(model: Path, manifest: Path, tmp_path: Path) -> None:
    lines = succeed("prefill", manifest, "--out", tmp_path, "--model", model, "--json")
    (found,) = objects(lines)
    keys = (
        "cache written skipped size_bytes codec quality slots computed threshold_scale tokens "
        "samples stored_samples positions dtype segments segments_written step kl agreement"
    )
    assert list(found) == keys.split()
    target = tmp_path / "clip.safetensors"
    assert (found["cache"], found["size_bytes"]) == (str(target), target.stat().st_size)
    assert (found["written"], found["skipped"], found["positions"]) == (True, False, "compact")
    assert list(found["tokens"]) == ["FP16", "INT8", "INT4"]
    assert (found["samples"], found["stored_samples"]) == (4, 3)


def test_of_a_video_whose_cells_are_reused_every_sample_is_stored_and_less_is_computed(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    """Each cell is compared with the one that it is made of."""
    command = ("prefill", clip, "--out", tmp_path, "--model", model, "--profile", "none")
    succeed(*command, "--reuse", "cells")
    found = inspected(tmp_path / "clip.safetensors")
    assert found["policy"]["parameters"]["reuse"] == "cells"
    assert found["policy"]["parameters"]["reference"] == "cells"
    assert found["samples"] == found["stored_samples"] == 4
    reused = sum(found["tokens"].values()) - found["computed"]
    assert reused > 0
    states = VideoReport.read(tmp_path / "clip.safetensors").states
    assert np.count_nonzero(states == REUSED) == reused
    assert batch("verify", tmp_path / "clip.safetensors").exit_code == 0
    answers = succeed("answer", tmp_path / "clip.safetensors", "-q", "a b ?")
    assert len(answers) == 1


def test_the_same_command_again_writes_nothing(model: Path, clip: Path, tmp_path: Path) -> None:
    command = ("prefill", clip, "--out", tmp_path, "--model", model)
    first = succeed(*command)
    before = stamps(tmp_path)
    again = batch(*command)
    assert (again.exit_code, again.stdout.splitlines()) == (0, first)
    assert again.stderr.startswith("1 skipped; ")
    assert stamps(tmp_path) == before
    told = objects(succeed(*command, "--json"))[0]
    assert (told["written"], told["skipped"]) == (False, True)
    assert "1 done; " in batch(*command, "--force").stderr
    after = stamps(tmp_path)
    assert all(after[name][0] > before[name][0] for name in before)


SLOTS_A_SAMPLE = 5
"""Of the tiny checkpoint: four cells and a newline."""


@pytest.mark.parametrize(
    "option",
    [
        ["--profile", "paper"],
        ["--positions", "original"],
        ["--reuse", "cells"],
        ["--dtype", "bfloat16"],
    ],
)
def test_other_settings_at_the_same_target_are_refused_and_forced(
    model: Path, manifest: Path, tmp_path: Path, option: list[str]
) -> None:
    command = ("prefill", manifest, "--out", tmp_path, "--model", model)
    succeed(*command)
    before = stamps(tmp_path)
    refused = batch(*command, *option)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"error: {tmp_path / 'clip.safetensors'}: already holds a cache" in refused.stderr
    name, expected = option[0].removeprefix("--"), option[1]
    assert f"; {name}: got " in refused.stderr
    assert f", expected {expected}; --force replaces it" in refused.stderr
    assert stamps(tmp_path) == before
    succeed(*command, *option, "--force")
    assert stamps(tmp_path) != before
    assert batch(*command, *option).stderr.startswith("1 skipped; ")


def test_another_video_or_model_at_the_same_target_is_refused(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeed("prefill", manifest, "--out", out, "--model", model)
    before = stamps(out)
    video = clips.write_clip(tmp_path / "clip.mp4", [clips.flat(48, 64)] * 10)
    succeed("analyze", video, "--out", tmp_path, "--model", model)
    tuned = tiny.llava_next(tmp_path / "tuned", seed=1)
    for changed in ([tmp_path / "clip.parquet", "--model", model], [manifest, "--model", tuned]):
        refused = batch("prefill", *changed, "--out", out)
        assert refused.exit_code == 1
        assert "--force replaces it" in refused.stderr
    assert stamps(out) == before


@pytest.mark.parametrize("option", [[], ["--profile", "paper"], ["--positions", "original"]])
def test_a_dry_run_writes_nothing_and_knows_the_size_to_the_byte(
    model: Path, clip: Path, tmp_path: Path, option: list[str]
) -> None:
    out = tmp_path / "out"
    command = ("prefill", clip, "--out", out, "--model", model, "--quality", "lossless", *option)
    (line,) = succeed(*command, "--dry-run")
    (promised,) = objects(succeed(*command, "--dry-run", "--json"))
    assert not list(tmp_path.iterdir())
    succeed(*command)
    target = out / "clip.safetensors"
    assert line.startswith(f"{target}: {target.stat().st_size} bytes; tokens FP16 ")
    assert (promised["cache"], promised["size_bytes"]) == (str(target), target.stat().st_size)
    assert (promised["written"], promised["skipped"]) == (False, False)


def test_a_dry_run_of_a_small_file_knows_what_it_takes_at_most(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    command = ("prefill", clip, "--out", tmp_path, "--model", model, "--quality", "small")
    (line,) = succeed(*command, "--dry-run")
    (promised,) = objects(succeed(*command, "--dry-run", "--json"))
    (made,) = objects(succeed(*command, "--json"))
    assert (made["codec"], made["quality"]) == ("klt", "small")
    assert f": at most {promised['size_bytes']} bytes; " in line
    size_bytes = (tmp_path / "clip.safetensors").stat().st_size
    assert made["size_bytes"] == size_bytes < promised["size_bytes"]


def test_a_cache_of_another_quality_is_another_cache(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    command = ("prefill", clip, "--out", tmp_path, "--model", model)
    succeed(*command, "--quality", "high")
    refused = batch(*command, "--quality", "small")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--force replaces it" in refused.stderr
    assert succeed(*command, "--quality", "high") == [str(tmp_path / "clip.safetensors")]


def test_a_dry_run_needs_no_weights_and_says_what_a_minute_and_memory_take(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    command = ("prefill", clip, "--out", tmp_path / "out", "--model", bare, "--dry-run")
    command = (*command, "--quality", "lossless")
    (found,) = objects(succeed(*command, "--json"))
    memory, minute = found["memory"], found["per_minute"]
    assert memory["peak_bytes"] == sum(
        memory[part] for part in ("weights_bytes", "tiers_bytes", "block_bytes")
    )
    assert memory["tiers_bytes"] < found["size_bytes"]
    clip_s = 4
    for part, whole in (("size", found["size_bytes"]), ("tiers", memory["tiers_bytes"])):
        assert minute[f"{part}_bytes"] == pytest.approx(whole * 60 / clip_s, abs=1)
    (line,) = succeed(*command)
    assert f"; a minute of video takes {minute['size_bytes']:,} bytes; memory: " in line
    assert f"{memory['weights_bytes']:,} weights, {memory['tiers_bytes']:,} tiers" in line
    computed = f"{found['computed']} computed in {found['dtype']}"
    assert f" of {found['slots']} slots, {computed}; a minute" in line
    (half,) = objects(succeed(*command, "--json", "--dtype", "bfloat16"))
    assert half["dtype"] == "bfloat16"
    assert half["memory"]["weights_bytes"] == memory["weights_bytes"] // 2


def test_weights_of_a_quantised_checkpoint_are_those_of_its_files(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    quantised = tmp_path / "quantised"
    shutil.copytree(model, quantised)
    config = json.loads((quantised / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "awq"}
    (quantised / "config.json").write_text(json.dumps(config))
    weights = quantised / "model.safetensors"
    command = ("prefill", clip, "--out", tmp_path / "out", "--model", quantised, "--dry-run")
    (found,) = objects(succeed(*command, "--json"))
    assert found["memory"]["weights_bytes"] == weights.stat().st_size
    weights.unlink()
    (found,) = objects(succeed(*command, "--json"))
    assert (found["memory"]["weights_bytes"], found["memory"]["peak_bytes"]) == (None, None)
    assert "memory: unknown weights, " in succeed(*command)[0]


@pytest.mark.parametrize("options", [["--device", "auto"], ["--attn", "torch"]])
def test_where_a_model_lies_and_how_it_attends_leave_no_trace_in_the_cache(
    model: Path, manifest: Path, cache: Path, tmp_path: Path, options: list[str]
) -> None:
    succeed("prefill", manifest, "--out", tmp_path, "--model", model, *options)
    one, other = inspected(tmp_path / "clip.safetensors"), inspected(cache)
    del one["cache"], other["cache"], one["seconds"], other["seconds"]
    assert one == other
    answer = ("answer", tmp_path / "clip.safetensors", "-q", "what is red ?")
    assert succeed(*answer, *options) == succeed(*answer)


def test_an_attention_that_cannot_run_here_is_refused(
    model: Path, manifest: Path, cache: Path, tmp_path: Path
) -> None:
    chosen = ("--device", "cpu", "--attn", "triton")
    refused = batch("prefill", manifest, "--out", tmp_path, "--model", model, *chosen)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "attention by triton: " in refused.stderr
    assert batch("answer", cache, "-q", "what ?", *chosen).exit_code == 1


def test_a_dry_run_over_finished_work_changes_nothing(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    command = ("prefill", clip, "--out", tmp_path, "--model", model)
    succeed(*command)
    before = stamps(tmp_path)
    succeed(*command, "--dry-run", "--force", "--profile", "paper")
    assert stamps(tmp_path) == before


def test_another_profile_assigns_tiers_anew_without_the_video(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    video = tmp_path / "film.mp4"
    shutil.copy(clip, video)
    succeed("analyze", video, "--out", tmp_path, "--model", model)
    video.unlink()
    manifest = tmp_path / "film.parquet"
    analysed = manifest.read_bytes()
    found = {}
    for profile in ("default", "paper"):
        out = tmp_path / profile
        succeed("prefill", manifest, "--out", out, "--model", model, "--profile", profile)
        found[profile] = inspected(out / "film.safetensors")
        assert found[profile]["policy"]["name"] == profile
    assert found["default"]["tokens"] != found["paper"]["tokens"]
    assert manifest.read_bytes() == analysed


def test_a_profile_without_pointers_is_refused_where_there_are_pointers(
    model: Path, manifest: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused = batch("prefill", manifest, "--out", out, "--model", model, "--profile", "none")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "clip.mp4: 1 samples are pointers" in refused.stderr
    assert "batch analyze --profile none --force" in refused.stderr
    succeed("prefill", clip, "--out", out, "--model", model, "--profile", "none")
    found = inspected(out / "clip.safetensors")
    assert (found["stored_samples"], sum(found["tokens"].values())) == (4, found["slots"])


def test_the_gaps_of_pointers_are_closed_or_kept(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    layouts = {}
    for positions in ("original", "compact"):
        out = tmp_path / positions
        succeed("prefill", manifest, "--out", out, "--model", model, "--positions", positions)
        layouts[positions] = inspected(out / "clip.safetensors")
    found = layouts["original"]
    pointers = found["samples"] - found["stored_samples"]
    assert pointers > 0
    for positions, gaps in (("original", 0), ("compact", pointers * SLOTS_A_SAMPLE)):
        assert layouts[positions]["layout"] == {
            "slots": found["slots"],
            "computed": sum(found["tokens"].values()),
            "positions": positions,
            "next_position": [found["slots"] - gaps],
        }


def test_a_sample_whose_pointers_fill_the_context_is_refused_with_the_way_out(
    model: Path, clip: Path, tmp_path: Path
) -> None:
    command = ("prefill", clip, "--out", tmp_path, "--model", model, "--fps", 200)
    refused = batch(*command, "--positions", "original")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "positions (original) of the sample at " in refused.stderr
    assert "--positions compact" in refused.stderr
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("suffix", [".mkv", ".parquet"])
def test_two_inputs_of_one_stem_are_wrong_usage_before_any_work(
    model: Path, clip: Path, tmp_path: Path, suffix: str
) -> None:
    twin = tmp_path / f"clip{suffix}"
    twin.touch()
    refused = batch("prefill", clip, twin, "--out", tmp_path / "out", "--model", model)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{clip} and {twin} would both be written to clip.safetensors" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_some_failed_is_3_and_all_failed_is_1(model: Path, manifest: Path, tmp_path: Path) -> None:
    bad = [tmp_path / "gone.parquet", tmp_path / "lost.mp4"]
    some = batch("prefill", *bad, manifest, "--out", tmp_path, "--model", model, "--jobs", 1)
    assert (some.exit_code, some.stdout) == (3, f"{tmp_path / 'clip.safetensors'}\n")
    for path in bad:
        assert f"error: {path}: no such file" in some.stderr
    assert "1 done, 2 failed; " in some.stderr
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 9)
    every = batch("prefill", *bad, noise, "--out", tmp_path, "--model", model, "--jobs", 1)
    assert (every.exit_code, every.stdout) == (1, "")
    assert "3 failed; 0 bytes" in every.stderr


def test_an_unforeseen_failure_of_one_video_is_named_and_the_others_go_on(
    model: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tmp_path / "twin.parquet"
    shutil.copy(manifest, twin)
    run = maker.prefill

    def failing(work: object, family: object, path: Path, **options: object) -> None:
        if path.stem == "twin":
            raise ValueError("int8: got NaN")
        run(work, family, path, **options)

    monkeypatch.setattr(maker, "prefill", failing)
    result = batch("prefill", twin, manifest, "--out", tmp_path / "out", "--model", model)
    assert result.exit_code == 3
    assert f"error: {twin}: ValueError: int8: got NaN" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.safetensors"]


def test_times_in_the_prompt_are_another_cache_of_more_slots(
    model: Path, manifest: Path, tmp_path: Path
) -> None:
    command = ("prefill", manifest, "--out", tmp_path, "--model", model)
    (timed,) = objects(succeed(*command, "--timestamps", "--dry-run", "--json"))
    (plain,) = objects(succeed(*command, "--json"))
    assert timed["slots"] > plain["slots"]
    assert timed["samples"] == plain["samples"]
    refused = batch(*command, "--timestamps")
    assert refused.exit_code == 1
    assert "timestamps: got False, expected True; --force replaces it" in refused.stderr
    succeed(*command, "--timestamps", "--force")
    assert inspected(tmp_path / "clip.safetensors")["policy"]["parameters"]["timestamps"] is True


def test_times_are_refused_before_any_work_where_the_prompt_has_no_room(
    clip: Path, tmp_path: Path
) -> None:
    model = llava_onevision(tmp_path / "model")
    out = tmp_path / "out"
    refused = batch("prefill", clip, "--out", out, "--model", model, "--timestamps")
    assert refused.exit_code == 1
    assert "llava_onevision takes no timestamps: a video is one block" in refused.stderr
    assert not out.exists()
