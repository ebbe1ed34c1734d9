"""The command line: what exists, what a typo says, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from lwm.cli import FUNCTIONS, TRAINING, function_parser, main, parse
from lwm.errors import ConfigError


def example(path: str, k: list[int] | None = None, rate: float | None = None, resume: bool = False) -> None:
    """An example.

    Args:
        path: where.
        k: shots.
        rate: Hz.
        resume: go on.
    """


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line that a failed command printed, and nothing like a traceback."""
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("lwm: error: ")
    return said[0]


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in [*FUNCTIONS, *TRAINING])


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_every_function_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"lwm {verb}" in capsys.readouterr().out


def test_unknown_verb_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genrate"]) == 2
    said = one_line_error(capsys)
    assert "'genrate'" in said
    assert "did you mean 'generate'?" in said
    assert "'fewshot'" in said


def test_unknown_flag_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--config", "generate/tiny", "--out", "x", "--sample", "3"]) == 2
    said = one_line_error(capsys)
    assert "no flag --sample" in said
    assert "did you mean --samples?" in said
    assert "--workers" in said


def test_missing_flag_and_wrong_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--config", "generate/tiny"]) == 2
    assert "out" in one_line_error(capsys)
    assert main(["generate", "--config", "generate/tiny", "--out", "x", "--samples", "many"]) == 2
    assert "many" in one_line_error(capsys)


def test_missing_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(tmp_path / "nothing.cf32")]) == 2
    assert "does not exist" in one_line_error(capsys)
    assert main(["doctor", str(tmp_path)]) == 2
    assert "manifest.json" in one_line_error(capsys)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--debug", "doctor", str(tmp_path)]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_flags_of_a_function() -> None:
    parser = function_parser("example", example, ("path",))
    assert parse(parser, ["here", "--k", "1", "20", "--resume"]) == {
        "path": "here",
        "k": [1, 20],
        "rate": None,
        "resume": True,
    }
    with pytest.raises(ConfigError, match="did you mean --rate"):
        parse(parser, ["here", "--rat", "3"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "pretrain/nothing"], "no config file 'pretrain/nothing'"),
        (["--config", "pretrain/lte", "--trainer.max_epoch", "1"], "did you mean 'trainer.max_epochs'?"),
        (["--config", "pretrain/lte", "--outt", "x"], "did you mean 'out'?"),
        (["--config", "pretrain/lte", "--trainer.max_epochs", "many"], "trainer.max_epochs = many"),
        ([], "--config FILE"),
    ],
)
def test_fit_errors_are_one_line(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *words]) == 2
    assert expected in one_line_error(capsys)


def test_unknown_yaml_keys_name_those_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "model: {class_path: lwm.tasks.pretrain.MaskedModeling, init_args: {mask_ration: 0.5}}\n"
    data = "data: {class_path: lwm.data.datamodule.ShardDataModule, init_args: {data: x}}\n"
    config = tmp_path / "wrong.yaml"
    config.write_text(model + data)
    assert main(["fit", "--config", str(config)]) == 2
    said = one_line_error(capsys)
    assert "no key 'mask_ration'" in said
    assert "did you mean 'mask_ratio'?" in said
    config.write_text("trainr: {max_epochs: 1}\n")
    assert main(["fit", "--config", str(config)]) == 2
    assert "did you mean 'trainer'?" in one_line_error(capsys)
    config.write_text("trainer: [\n")
    assert main(["fit", "--config", str(config)]) == 2
    assert "line" in one_line_error(capsys)


def test_import_is_light() -> None:
    code = "import sys, lwm; heavy = {'torch', 'numpy', 'transformers'} & set(sys.modules); sys.exit(len(heavy))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_console_script_is_installed() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lwm"), "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.strip()[0].isdigit()
