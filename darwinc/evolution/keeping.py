"""Files and folders that are written whole or not at all, and a lock that a killed process leaves open."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from darwinc.errors import OutputError

PART = ".part"


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder with its files beside its place, wait for the disk, and put it there; an older one gives way.

    Raises:
        OutputError: the disk doesn't take it.
    """
    temporary = folder.with_name(f".{folder.name}{PART}")
    try:
        _remove(temporary)
        temporary.mkdir(parents=True)
        for name, data in files.items():
            _write(temporary / name, data)
        settle(temporary)
        _remove(folder)
        temporary.rename(folder)
        settle(folder.parent)
    except OSError as error:
        with suppress(OSError):
            _remove(temporary)
        raise _refusal(folder, error) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place, wait for the disk, and put it there.

    Raises:
        OutputError: the disk doesn't take it.
    """
    temporary = path.with_name(f".{path.name}{PART}")
    try:
        _write(temporary, data)
        temporary.replace(path)
        settle(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _refusal(path, error) from error


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write into a folder, and into those within it."""
    for pattern in (f".*{PART}", f"*/.*{PART}"):
        for left in folder.glob(pattern):
            with suppress(OSError):
                _remove(left)


def fingerprint(path: Path, size: int) -> str | None:
    """SHA-256 of a file of so many bytes; None where it has another size or can't be read."""
    try:
        with path.open("rb") as file:
            right = os.fstat(file.fileno()).st_size == size
            return hashlib.file_digest(file, "sha256").hexdigest() if right else None
    except OSError:
        return None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; Windows has no such thing."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _refusal(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {error.strerror or error}.")


class Lock:
    """Held on a folder, which is made where there is none; the system releases it when the process dies."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            OutputError: another process holds it, or the folder can't be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "lock").open("ab")
        except OSError as error:
            raise _refusal(folder, error) from error
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise OutputError(f"Another run writes {folder} at this moment; give another --run-dir.") from error

    def release(self) -> None:
        """Let others take it."""
        self._file.close()
