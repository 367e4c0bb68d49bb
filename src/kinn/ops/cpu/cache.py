"""Kernels' code on disk: whatever happens to it, they are compiled again at worst."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from numba import njit
from numba.core.caching import FunctionCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 60  # seconds for another process to load or save


class _Cache(FunctionCache):
    """Numba's, for several processes at once, and for files that are damaged or cannot be written.

    An index and the files that it names change one after the other: without a lock one process may see another's
    index before its code. What cannot be read is forgotten, and what cannot be written is left.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), _parts()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._alone():
            try:
                return super().load_overload(sig, target_context)
            except Exception:
                with contextlib.suppress(Exception):
                    self.flush()
                return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with self._alone(), contextlib.suppress(Exception):
            super().save_overload(sig, data)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(Path(self.cache_path) / "kinn.lock", timeout=_PATIENCE)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, NotImplementedError, Timeout):  # a folder that cannot be written to
                Path(self.cache_path).mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock)
            yield


@functools.cache
def _parts() -> str:
    """Digest of all that kernels inline: numba sees a change of the file alone that a kernel stands in."""
    here = Path(__file__).parent
    return hashlib.sha256(
        b"".join(p.read_bytes() for p in sorted([*here.glob("_*.py"), here / "records.py"]))
    ).hexdigest()


def kernel(function: Callable) -> Any:
    """Compile an entry point, and keep the code on disk."""
    try:
        dispatcher: Any = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder that can be written to: compile in every process
        return njit(nogil=True)(function)
    dispatcher._cache = _Cache(function)
    return dispatcher


def kept(dispatcher: Any) -> bool:
    """Whether a kernel's code is kept on disk."""
    return isinstance(dispatcher._cache, _Cache)
