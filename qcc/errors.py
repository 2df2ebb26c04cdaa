"""Every error that qcc raises on purpose, with the exit code that the command line gives it.

A message is one paragraph: where, what was expected, what was found, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping


class QccError(Exception):
    """Base of all of qcc's errors; `exit_code` is what the command line returns for it. Those that keep 1 are mistakes of qcc's own."""

    exit_code = 1


class UsageError(QccError):
    """A request that cannot be carried out as given: a bad option, a missing file, wrong input names, shapes or data."""

    exit_code = 2


class UnknownTarget(UsageError):
    """The named target does not exist."""


class RecipeError(UsageError):
    """A recipe file with an unknown key, or a value of the wrong kind."""


class BudgetError(UsageError):
    """Budgets that no choice of precisions can meet. `reachable`: by measure, the least total that the others leave open."""

    def __init__(self, message: str, reachable: Mapping[str, float] | None = None) -> None:
        super().__init__(message)
        self.reachable = dict(reachable or {})


class DataError(UsageError):
    """Calibration or input data that is missing, malformed, or holds NaN or infinity."""


class OutputError(UsageError):
    """The output folder cannot be written, or exists and may not be replaced."""


class ModelError(QccError):
    """The model cannot be read, is invalid, or holds something that qcc does not support."""

    exit_code = 3


class UnsupportedOperator(ModelError):
    """Operators that qcc cannot compile; the message lists every one at once."""


class AccuracyError(QccError):
    """An accuracy goal was set and missed."""

    exit_code = 4


class VerificationError(QccError):
    """A library does not compute what its graph says, or its files do not match its manifest."""

    exit_code = 5


class TypeMismatch(QccError):
    """An operator or a type was given something that its definition forbids."""


class GraphError(QccError):
    """A graph breaks a rule of its stage; the message shows the text around the culprit."""


class PassError(QccError):
    """A pass was given the wrong stage, or broke its promise."""


class CodegenError(QccError):
    """A kernel or the library could not be built: LLVM, the C compiler or the linker failed, or is not there."""

    exit_code = 7


class RuntimeFailure(QccError):
    """A compiled library refused to load or to run: it needs another machine, or the folder is damaged."""

    exit_code = 6
