"""The command line refuses what cannot work, at once and in words."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nat2.cli import main
from nat2.cli.parser import build_parser
from nat2.cli.verbs import VERBS
from tests.data.test_sources import write_images


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("arguments", [(), *((verb,) for verb in VERBS)])
def test_help_begins_with_examples(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, output, _ = run(capsys, *arguments, "--help")
    assert code == 0
    assert output.index(f"nat2 {arguments[0] if arguments else 'run'} ") < output.index("options:")


def test_every_setting_has_a_sentence_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    _, output, _ = run(capsys, "run", "--help")
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  --") and not line.startswith("  --phases.help") and "CONFIG" not in line:
            text = " ".join([line[24:], *(part.strip() for part in lines[number + 1 : number + 3])])
            assert not text.strip().startswith("(type"), line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/does/not/exist"], "does not exist"),
        (["--objectives", "error,speed"], "'speed'"),
        (["--objectives", "params"], "must include error"),
        (["--objectives", "error,nowhere.py:joules"], "there is no file nowhere.py"),
        (["--budget", "params=3"], "bounds like params<=200k"),
        (["--budget", "speed<=3"], "can bound error, int8_error, params"),
        (["--budget", "params<=3ms"], "takes a number for params"),
        (["--budget", "params<=2k"], "the nearest has params"),
        (["--budget", "params>=20k,params<=10k"], "widen the budget"),
        (["--latency-threads", "0"], "must be at least 1"),
        (["--search.predictor", "best"], "predictor"),
        (["--search.learn_from=-1"], "`learn_from` of the search"),
        (["--networks", "0"], "--networks must be at least 1; got 0"),
        (["--networks", "many"], "networks"),
        (["--width", "-1"], "--width must be a number from 0.1 to 8"),
        (["--resolutions", "64,48"], "--resolutions must be ascending"),
        (["--resolutions", "8,9", "--stem-stride", "2"], "one pixel"),
        (["--search.archive", "2"], "`archive` of the search must be at least 8"),
        (["--search.generations=-3"], "`generations` of the search"),
        (["--finetune.lr", "0"], "`lr` of the fine-tuning must be above 0"),
        (["--adapt.epochs=-1"], "`epochs` of the adaptation"),
        (["--shrink.batch_size", "0"], "`batch_size` of the shrinking must be at least 2"),
        (["--shrink.label_smoothing", "1.5"], "`label_smoothing`"),
        (["--augmentation.crop_scale", "0"], "`crop_scale`"),
        (["--val-fraction", "1.2"], "--val_fraction must be above 0 and below 1"),
        (["--preset", "huge"], "preset"),
        (["--seed", "x"], "seed"),
        (["--config", "/no/such.yaml"], "config"),
        (["--unknown-flag"], "unknown_flag"),
        (["--phases", '[{"name": "x", "epochs": 0, "lr": 1}]'], "phase 'x' must be above 0"),
        (["--phases", '[{"name": "x", "epochs": 1, "lr": 1, "kernels": [4]}]'], "`kernels` must be among 3, 5, 7"),
        (["--out", "/proc/nowhere"], "cannot be written"),
        (["--data", ""], "--data must name a folder"),
        (["--adapt.weight_decay=-1"], "`weight_decay` of the adaptation must be 0 or more"),
        (["--finetune.batch_size=1"], "`batch_size` of the fine-tuning must be at least 2"),
        (["--phases", '[{"name": "x", "epochs": 1, "lr": .inf}]'], "`lr` of phase 'x'"),
    ],
)
def test_what_cannot_work_is_refused_in_words(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, "run", *arguments)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not any(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    ("classes", "message"),
    [({}, "no images found"), ({"a": 9}, "at least 2 classes"), ({"a": 9, "b": 2}, "b (2)")],
)
def test_folders_that_cannot_be_used_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, classes: dict[str, int], message: str
) -> None:
    (tmp_path / "data").mkdir()
    write_images(tmp_path / "data", classes)
    code, _, errors = run(capsys, "run", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_bad_images_are_all_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_images(tmp_path / "data", {"a": 9, "b": 9})
    for number in range(7):
        (tmp_path / "data" / "a" / f"{number}.png").write_bytes(b"bad")
    code, _, errors = run(capsys, "run", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert all(f"a/{number}.png" in errors for number in range(7))


def test_a_file_of_settings_and_flags_over_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"preset": "nat", "seed": 5, "search": {"candidates": 11}}))
    received: dict[str, Any] = {}
    monkeypatch.setattr(
        "nat2.pipeline.api.run", lambda config, **options: received.update(config=config, options=options)
    )
    code, _, _ = run(capsys, "run", "--config", str(tmp_path / "s.yaml"), "--seed", "6", "--skip-bad-images")
    config = received["config"]
    assert code == 0
    assert (config.seed, config.search.candidates, config.skip_bad_images) == (6, 11, True)
    assert (config.preset, config.family, config.search.archive) == ("nat", "SE_B", 100)  # the file's preset counts
    assert received["options"] == {"fresh": False, "quiet": False}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--balance"], True),
        (["--balance", "--seed", "1"], True),
        (["--balance", "true"], True),
        (["--balance=false"], False),
        (["--config", "on.yaml"], True),
        (["--config", "on.yaml", "--balance", "false"], False),
    ],
)
def test_balance_is_a_switch_that_takes_a_value_too(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: bool,
) -> None:
    (tmp_path / "on.yaml").write_text("balance: true")
    monkeypatch.chdir(tmp_path)
    received: list[bool] = []
    monkeypatch.setattr("nat2.pipeline.api.run", lambda config, **options: received.append(config.balance))
    code, _, _ = run(capsys, "run", *words)
    assert (code, received) == (0, [expected])


@pytest.mark.parametrize(
    "text",
    [
        "seed: [",
        "- a list",
        "sead: 3",
        "search: 5",
        "seed: abc",
        "data: null",
        "preset: [a]",
        "skip_bad_images: maybe",
        "balance: maybe",
        "fresh: 'no'",
        "search:\n  archive: many",
    ],
)
def test_malformed_files_of_settings_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    code, _, errors = run(capsys, "run", "--config", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert errors
    assert "Traceback" not in errors


def test_a_run_folder_inside_the_images_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, {"a": 9, "b": 9})
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, "run", "--data", ".")
    assert code == 2
    assert "lies inside the images" in errors
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_names_behind_two_dashes_are_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, errors = run(capsys, "predict", str(tmp_path / "no-such"), "--", "--my-image.png")
    assert code == 2
    assert "no-such does not exist" in errors


def test_prediction_needs_an_exported_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, errors = run(capsys, "predict", str(tmp_path), "x.png")
    assert code == 2
    assert "does not hold an exported network" in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, _, errors = run(capsys, "run", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "cannot be written" in errors


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["fi"], "finetune"),
        (["run", "--search.pre"], "--search.preprocess --search.predictor"),
        (["run", "--preset", ""], "quick nat2 nat"),
    ],
)
def test_shells_complete_verbs_flags_and_values(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    completed: str,
) -> None:
    monkeypatch.setattr("nat2.cli.build_parser", build_parser)  # shtab leaves its parser changed behind
    code, script, _ = run(capsys, "--print_completion", "shtab-bash")
    assert code == 0
    (tmp_path / "nat2.bash").write_text(script)
    given = " ".join(shlex.quote(word) for word in ["nat2", *words])
    asked = subprocess.run(
        ["bash", "-c", f'''source {shlex.quote(str(tmp_path / "nat2.bash"))}
        function=$(complete -p nat2 | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        COMP_WORDS=({given}); COMP_CWORD={len(words)}
        $function nat2 "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"; echo "${{COMPREPLY[@]}}"'''],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout.strip() == completed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nowhere"], "nowhere is not a run folder"),
        (["search", "nowhere"], "does not exist; name one like runs/photos, or the images with --data"),
        (["finetune", "nowhere", "1a2b3c4d"], "nowhere is not a run folder"),
        (["report", "nowhere"], "nowhere"),
        (["latency", "nowhere"], "does not hold an exported network"),
        (
            ["latency", "nowhere", "--batch", "many"],
            "--batch must be whole numbers with commas between them; got 'many'",
        ),
        (["latency", "nowhere", "--threads", "0"], "`threads` of the latency must be at least 1; got 0"),
        (["latency", "nowhere", "--runtime", "tpu"], "the runtime must be one of onnx, int8, torch; got 'tpu'"),
        (["run", "--fresh", "."], "name the run directly after the verb: nat2 run . [options]"),
        (["finetune", "--quiet", ".", "1a2b3c4d"], "name the run directly after the verb: nat2 finetune ."),
        (["profile", "nowhere"], "nowhere is not a run folder"),
        (["run", "--finetune.variant", "ensemble", "--family", "SE_B"], "needs early exits"),
        (["run", "--finetune.kd_ratio=-1"], "`kd_ratio` of the fine-tuning must be 0 or more; got -1"),
    ],
)
def test_verbs_refuse_what_is_not_there(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert message in errors
    assert not list(tmp_path.iterdir())
