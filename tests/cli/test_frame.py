"""What all commands share: help, exit codes, errors as text and as JSON, interruption, and how fast the command line answers."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from qcc import errors
from qcc.cli import COMMANDS

Run = Callable[..., Any]
CODES = {
    errors.UsageError: 2, errors.UnknownTarget: 2, errors.RecipeError: 2, errors.DataError: 2, errors.OutputError: 2, errors.ModelError: 3,
    errors.UnsupportedOperator: 3, errors.AccuracyError: 4, errors.VerificationError: 5, errors.CodegenError: 7, errors.RuntimeFailure: 6,
}


def test_help_lists_every_command(qcc: Run) -> None:
    result = qcc("--help")
    assert result.exit_code == 0
    for command, summary in COMMANDS.items():
        assert f"  {command} " in result.stdout
        assert summary.split()[0] in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(qcc: Run, command: str) -> None:
    for flag in "--help", "-h":
        result = qcc(command, flag)
        assert result.exit_code == 0
        assert f"Usage: qcc {command}" in result.stdout
        assert "--json" in result.stdout


def test_version(qcc: Run) -> None:
    assert qcc("--version").stdout.startswith("qcc ")


def test_no_command_shows_help_and_is_an_error(qcc: Run) -> None:
    result = qcc()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compil"], "No such command 'compil'"),
        (["compile"], "Missing argument 'MODEL'; see 'qcc compile --help'"),
        (["compile", "m.onnx"], "Missing option '-o'"),
        (["compile", "m.onnx", "-o", "x", "--io", "bytes"], "'bytes' is not one of 'float', 'integer'"),
        (["compile", "m.onnx", "-o", "x", "--fast"], "No such option"),
        (["run", "nowhere", "--input", "x.npy"], "Directory 'nowhere' does not exist"),
        (["bench", "nowhere"], "Directory 'nowhere' does not exist"),
        (["inspect", "nowhere"], "Path 'nowhere' does not exist"),
        (["bench", ".", "--threads", "0"], "0 is not in the range"),
    ],
)
def test_usage_errors(qcc: Run, arguments: list[str], message: str) -> None:
    result = qcc(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("qcc: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    as_json = qcc(*arguments, "--json")
    assert as_json.exit_code == 2
    assert as_json.stderr == ""
    assert json.loads(as_json.stdout)["error"]["kind"] == "UsageError"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """`failing(error)` makes `qcc targets` raise it."""

    def arrange(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("qcc.codegen.target.host_features", fail)

    return arrange


@pytest.mark.parametrize("kind", CODES)
def test_exit_codes(qcc: Run, failing: Callable[[BaseException], None], kind: type[errors.QccError]) -> None:
    failing(kind("where: expected, got, what to do"))
    result = qcc("targets")
    assert result.exit_code == CODES[kind] == kind.exit_code
    assert result.stderr == "qcc: where: expected, got, what to do\n"
    as_json = json.loads(qcc("targets", "--json").stdout)
    assert as_json == {"error": {"kind": kind.__name__, "message": "where: expected, got, what to do", "exit_code": CODES[kind]}}


def test_mistakes_of_qcc_are_said_to_be_some(qcc: Run, failing: Callable[[BaseException], None]) -> None:
    failing(KeyError("lost"))
    result = qcc("targets")
    assert result.exit_code == 1
    assert result.stderr == "qcc: KeyError: 'lost': this is a mistake in qcc, not in your model; report it with what --debug prints\n"
    for arguments in (["targets", "--debug"], ["--debug", "targets"]):
        shown = qcc(*arguments)
        assert shown.exit_code == 1
        assert "Traceback (most recent call last)" in shown.stderr
        assert "in fail" in shown.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (click.Abort(), 130, "interrupted; nothing was written"),
        (MemoryError(), 2, "out of memory"),
        (PermissionError(13, "Permission denied", "/there"), 2, "/there: Permission denied"),
    ],
)
def test_other_ends(qcc: Run, failing: Callable[[BaseException], None], error: BaseException, code: int, message: str) -> None:
    failing(error)
    result = qcc("targets")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_goes_away_is_no_error(qcc_process: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output, qcc_process("targets", stdout=output) as process:
        assert process.communicate()[1] == ""
        assert process.returncode == 141


@pytest.mark.parametrize(
    ("number", "code", "message"), [(signal.SIGINT, 130, "qcc: interrupted; nothing was written\n"), (signal.SIGTERM, 143, "")]
)
def test_a_compile_that_is_interrupted_leaves_nothing(
    shared: Any, qcc_process: Run, tmp_path: Path, number: signal.Signals, code: int, message: str
) -> None:
    data, output = tmp_path / "data.npz", tmp_path / "results" / "out"
    output.parent.mkdir()
    os.mkfifo(data)
    process = qcc_process("compile", shared.model, "-o", output, "--calibration-data", data)
    with process, data.open("wb"):      # the pipe opens as soon as the compiler reads its data
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert printed.lstrip("\n") == message      # a line feed ends the terminal's ^C
    assert list(output.parent.iterdir()) == []


def test_answers_at_once() -> None:
    """In processor time, and the best of some tries: the machine may be busy."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    for code in "import qcc", "import sys; from qcc.cli import main; sys.argv = ['qcc', '--help']; main()":
        times = []
        for _ in range(5):
            before = spent()
            subprocess.run([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"], check=True, capture_output=True)
            times.append(spent() - before)
        assert min(times) < 0.3, times
