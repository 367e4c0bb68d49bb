"""Files that are complete or absent, never half-written."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# seconds between attempts: Windows renames nothing onto a file that another program, such as a virus scanner, has open
_PAUSES: tuple[float, ...] = (0.1, 0.2, 0.4) if os.name == "nt" else ()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its final name only when the block ends well.

    The bytes go to a temporary file in the same folder (made if absent), reach the disk, and are then renamed. If the
    block raises, the temporary file is removed and whatever stood under `path` stays as it was.

    Args:
        path: the final name.

    Yields:
        the binary file to write to.

    Raises:
        OSError: if the folder cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_file(Path(folder) / "a.txt") as file:
        ...         _ = file.write(b"whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        with suppress(OSError):  # some mounts have no modes
            temporary.chmod(0o666 & ~mask)  # mkstemp keeps files private; results are for others to read as usual
        _rename(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say whose
        raise


def _rename(temporary: Path, path: Path) -> None:
    for pause in _PAUSES:
        with suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(pause)
    temporary.replace(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) in one piece, see `atomic_file`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one piece, see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)
