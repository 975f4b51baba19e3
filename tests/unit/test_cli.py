"""The command line's own behaviour: exit codes, one-line errors, quick help, clean stops."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import docendo.cli as cli
from docendo.agents import models
from docendo.errors import ConfigError, ModelFailure

NAMES = sorted(cli._COMMANDS)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert f"\n  {name} " in out
    assert "Example" in out
    assert "..." not in out.split("Commands:")[1]  # no summary is cut off


def test_no_arguments_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "quickstart" in "".join(capsys.readouterr())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"docendo {version('docendo')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["models", "--help"], ["models", "list"], ["--version"]])
def test_quick_commands_import_no_heavy_library(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom docendo.cli import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'langgraph', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_user_error_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "pull", "smolm2"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: model 'smolm2' ")
    assert "smollm2-135m-instruct" in err


def test_terms_are_refused_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "pull", "gemma-3-270m", "--force"]) == 2
    assert "docendo models pull gemma-3-270m --accept-license" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            ConfigError("seen\nhere", expected="this", remedy="do that"),
            2,
            "error: seen here; expected this; do that.\n",
        ),
        (ModelFailure("logits are NaN"), 1, "error (model): logits are NaN\n"),
    ],
)
def test_errors_of_docendo_are_one_line(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(models, "catalogue", fail)
    assert cli.main(["models", "list"]) == code
    assert capsys.readouterr().err == line


def test_unknown_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(models, "catalogue", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["models", "list"])


def test_ctrl_c_is_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "catalogue", stop)
    assert cli.main(["models", "list"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "docendo", "models", "list"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()  # before the child has written anything
    with child.stderr:
        assert child.stderr.read() == ""
    assert child.wait() == 141


def test_unknown_option_and_command_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model"]) == 2
    assert "models" in capsys.readouterr().err
    assert cli.main(["models", "pull"]) == 2
    assert cli.main(["models", "list", "--nope"]) == 2


def test_absent_command_fails_only_when_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._COMMANDS, "absent", "Is not there.")
    monkeypatch.setitem(sys.modules, "docendo.cli._absent", None)
    assert cli.main(["--help"]) == 0
    assert cli.main(["absent"]) == 2
    assert "not part of this version" in capsys.readouterr().err


def test_models_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [card.name for card in models.catalogue()]
    assert {"license", "megabytes", "path"} <= set(rows[0])


def leaves(command: object, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    sub = getattr(command, "commands", None)
    return [path] if not sub else [leaf for name in sub for leaf in leaves(sub[name], (*path, name))]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for path in leaves(cli._load(name), (name,)):
        assert cli.main([*path, "--help"]) == 0
        out = capsys.readouterr().out
        assert f"docendo {' '.join(path)}" in out.split("\n", 1)[1], (
            f"no example in the help of {' '.join(path)}"
        )
