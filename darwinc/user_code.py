"""Functions that users name on the command line: `package.module:function`."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """As with `python -m`, modules beside the user are found, also while their functions run."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def named(spec: str) -> object:
    """What `package.module:name` names; `name` may have dots.

    Raises:
        ImportError, AttributeError: there is no such module, or nothing of that name in it.
    """
    module, _, name = spec.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))
