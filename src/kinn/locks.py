"""One process at a time where two would spoil each other's files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kinn.notices import warn_once

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of NFS without its daemon, of FUSE


@contextmanager
def alone(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold what is, or will be, at a path, by a lock beside it; on file systems without locks there is a warning.

    Args:
        path: of a file or a folder.
        busy: called with the lock's file where another process holds it; if it does not raise, that one is waited for.

    Raises:
        OSError: if the lock cannot be written.
    """
    place = path.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        busy(lock.lock_file)
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn_once(
            f"{path} is made unguarded ({error}): start no second command that makes it; "
            "should HDF5 want a lock as well, set HDF5_USE_FILE_LOCKING=FALSE"
        )
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes nothing that is open
            Path(lock.lock_file).unlink()
        lock.release()
