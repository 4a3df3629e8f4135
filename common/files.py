"""Atomic file writes, locks between processes, and the check that a path is a file (`common.content` reads
and checks contents).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from common.errors import InputError

log = logging.getLogger("run")
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def regular_file(path: str | Path, what: str) -> os.stat_result:
    """Returns the status of a file that is to be read as `what` ("an image").

    Raises `InputError` for anything else: no file, a folder, a pipe, a loop of links, an impossible name.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        found = "a link that leads nowhere" if os.path.islink(path) else "no such file"
        raise InputError(f"{path}: expected {what}, found {found}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: expected {what}, found no usable path ({reason})") from None
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise InputError(f"{path}: expected {what}, found {found}")
    return status


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files that a killed `write_atomic` left in a folder or below it."""
    for path in folder.rglob(".*"):
        if path.is_file() and not path.is_symlink():
            path.unlink()


def write_atomic(path: Path, content: bytes | memoryview | str, *, durable: bool = True) -> None:
    """Writes a temporary file and renames it: readers never see a part; errors keep the old file.

    `durable`: also after a power failure, which takes milliseconds for each file; images do without.
    """
    with atomic_file(path, durable=durable) as file:
        file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Holds an exclusive lock on `path` while `name` is built; a second process waits.

    A file with content is never opened: the lock is then a file beside it. Raises `InputError` for a link and
    for a file system without locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise InputError(f"{path}: expected a lock file, found a link: delete it")
    if path.is_file() and path.stat().st_size:  # releases of filelock differ in whether they empty it
        path = path.with_name(f"{path.name}.lock")
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: another process is building it; waiting", name)
            lock.acquire()
    except NotImplementedError as error:
        raise _cannot_lock(path, error) from None
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
        raise _cannot_lock(path, error.strerror) from None
    try:
        yield
    finally:
        lock.release()


def _cannot_lock(path: Path, reason: object) -> InputError:
    return InputError(
        f"{path.parent}: this file system cannot lock files ({reason}): choose another --out or --data-root"
    )
