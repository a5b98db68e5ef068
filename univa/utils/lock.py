"""One process at a time in a folder: what two write at once is worth nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from univa.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: there is no such lock, and the user has to take care
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock"]

_held: set[int] = set()  # descriptors, of this process


class FolderLock:
    """A lock on a folder that leaves no file behind, and ends with the process however it ends.

    Where the file system knows no locks, nothing is locked.

    Args:
        folder: what to lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def take(self) -> None:
        """Lock the folder, which exists by now, until the block of this lock is left.

        Raises:
            UserError: another process has it.
        """
        if fcntl is None or self._descriptor is not None:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{self.folder}: another process is at work in this folder; let it end, or "
                    "stop it"
                ) from None
            return
        self._descriptor = descriptor
        _held.add(descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def _leave_to_the_parent() -> None:
    """A forked child must not keep the lock of a parent that was killed."""
    while _held:
        os.close(_held.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_leave_to_the_parent)
