"""The command line: which commands there are, and how every failure ends: its message, its place and its exit code.

The codes of errors are in qcc/errors.py, the README lists all. What a command does is in qcc/commands, one module each, imported when it is
called.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import click

from qcc.errors import QccError, UsageError

COMMANDS = {
    "compile": "Compile an ONNX model into an artifact folder.",
    "run": "Run a compiled model on arrays from files.",
    "bench": "Measure a compiled model, also side by side with other runtimes.",
    "profile": "Measure the kernels that a model could have, for mixed precision.",
    "verify": "Check that a library computes exactly what its graph says.",
    "compare": "Compare a model with its compiled library, end to end and layer by layer.",
    "inspect": "Show what a model or an artifact consists of.",
    "targets": "List the machines to compile for.",
    "demo": "Compile, run and measure the bundled CIFAR-10 network.",
}
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143


class _ReaderGone(Exception):
    """Whoever reads the output has closed it. Not an OSError: those click ends with an exit code of its own."""


@contextlib.contextmanager
def _reader_watched() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGone from error


class _Commands(click.Group):
    """A group that imports a command only when it is used, and that turns every exception into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"qcc.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *positional: Any, **options: Any) -> click.Context:
        with _reader_watched():
            return super().make_context(*positional, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_watched():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> Any:
        """Run and exit the process; click's own handling of errors is not used."""
        arguments = list(sys.argv[1:] if args is None else args)
        flags = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
        options["standalone_mode"] = False
        try:
            _end_on_termination()
            code = super().main(arguments, *positional, **options)
            sys.stdout.flush()
        except BaseException as error:  # every way out of a command ends here
            code = _explain(error, "--json" in flags, "--debug" in flags)
        sys.exit(code if isinstance(code, int) else 0)


def _end_on_termination() -> None:
    def end(_number: int, _frame: Any) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _explain(error: BaseException, as_json: bool, debug: bool) -> int:
    """Print what there is to say about an error, and return the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, _ReaderGone | BrokenPipeError):
        # What is still in the buffers would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if debug:
        traceback.print_exception(error)
    kind, message, code = _description(error)
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code}}))
    else:
        click.echo(f"qcc: {message}", err=True)
    return code


def _description(error: BaseException) -> tuple[str, str, int]:
    """Kind, message and exit code."""
    kind = type(error).__name__
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "Interrupted", "interrupted; nothing was written", INTERRUPTED
    if isinstance(error, QccError):
        return kind, str(error), error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        text = error.format_message().rstrip(".")
        hint = f"{'' if text.endswith('?') else ';'} see '{context.command_path} --help'" if context is not None else ""
        return "UsageError", text + hint, error.exit_code
    if isinstance(error, MemoryError):
        return kind, "out of memory; take a smaller model or batch, or a machine with more memory", UsageError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return kind, f"{error.filename}: {error.strerror}", UsageError.exit_code
    text = str(error).partition("\n")[0]
    return kind, f"{kind}: {text}: this is a mistake in qcc, not in your model; report it with what --debug prints", QccError.exit_code


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            number = metadata.version("qcc")
        except metadata.PackageNotFoundError:
            number = "(run from its sources)"
        click.echo(f"qcc {number}")
        ctx.exit()


@click.group("qcc", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error.")
def main() -> None:
    """A quantizing compiler: ONNX models to small, exact, integer-only native libraries.

    Start with 'qcc demo'; 'qcc COMMAND --help' lists a command's options.
    """


if __name__ == "__main__":
    main()
