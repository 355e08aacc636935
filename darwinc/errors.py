"""Every error that a user can cause, and the exit code that the command line gives it.

    DarwincError                 70
    ├── UsageError                2   wrong usage: options, a budget file, a missing extra
    ├── InputError                3   the model or the data can't be read, or isn't valid
    │   ├── InvalidModel          3   not ONNX, truncated, refused by the checker or by ONNX Runtime
    │   ├── InvalidData           3   calibration data that can't be read or doesn't fit the model
    │   └── UnsupportedOperator   3   no torch rule; callers fall back to the weights alone
    ├── OutputError               3   the result can't be written where it should go
    ├── Unreachable               4   the target is out of reach, or nothing can be removed
    ├── VerificationFailed        5   the rewrite didn't answer like the original
    └── Interrupted               6   stopped by the user or by a signal

A message is one sentence: what was found, what was expected, what to do.
"""

from __future__ import annotations


class DarwincError(Exception):
    """The root of the tree; raised itself only for a bug in darwinc."""

    exit_code = 70


class UsageError(DarwincError):
    """The command line, a recipe or a budget asks for something that doesn't exist."""

    exit_code = 2


class InputError(DarwincError):
    """Something that was handed in can't be used."""

    exit_code = 3


class InvalidModel(InputError):
    """The model can't be read, or ONNX or ONNX Runtime says that it's invalid."""


class InvalidData(InputError):
    """The data can't be read, or doesn't fit the model's inputs."""


class UnsupportedOperator(InputError):
    """The torch twin has no rule for an operator of the model; `found` says which, and where, without the advice."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; use --fitness l1, l2, fpgm or random with --recover none, which need no torch.")
        self.found = found

    def __reduce__(self) -> tuple[type[UnsupportedOperator], tuple[str]]:
        """Pickled by what was found: the sentence would get its advice twice."""
        return type(self), (self.found,)


class OutputError(InputError):
    """The result can't be written to the place that was asked for."""


class Unreachable(DarwincError):
    """The target can't be reached, or no channel can be removed at all."""

    exit_code = 4


class VerificationFailed(DarwincError):
    """The rewritten model doesn't answer like the original with the removed channels zeroed."""

    exit_code = 5


class Interrupted(DarwincError):
    """The user or a signal stopped the run, or its workers were killed again and again."""

    exit_code = 6
