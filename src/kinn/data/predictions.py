"""Predicted fields as a file, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from torch import Tensor

from kinn._version import __version__
from kinn.files import atomic_file

_FORMAT = "kinn.prediction"


@contextmanager
def prediction_file(path: str | Path, about: Mapping[str, Any]) -> Iterator[Callable[[Tensor], None]]:
    """An HDF5 file with one array `prediction`, float32, whose samples come in batches; it appears whole or not at all.

    Args:
        path: of the file; predictions that lie there are replaced, anything else is not.
        about: plain values that become attributes.

    Yields:
        what takes in the next batch, `(b, C, *grid)` or, of rollouts, `(b, steps, C, *grid)`.

    Raises:
        ValueError: if something else lies at `path`.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with prediction_file(f"{folder}/p.h5", {"model": "FNO"}) as append:
        ...         for _ in range(2):
        ...             append(torch.zeros(3, 1, 8, 8))
        ...     with h5py.File(f"{folder}/p.h5") as file:
        ...         file["prediction"].shape
        (6, 1, 8, 8)
    """
    path = Path(path)
    if path.exists() and not _is_prediction(path):
        raise ValueError(f"{path} exists and holds no predictions: choose another path for them")
    with atomic_file(path) as raw, h5py.File(raw, "w") as file:
        file.attrs.update({"format": _FORMAT, "kinn_version": __version__, **about})

        def append(batch: Tensor) -> None:
            values = batch.detach().float().cpu().numpy()
            sample = values.shape[1:]
            if "prediction" not in file:
                # a chunk is a field, or a frame: read by itself, and no room for samples that do not come
                chunk = (1, *(1 for _ in sample[:-3]), *sample[-3:])
                file.create_dataset("prediction", (0, *sample), "float32", maxshape=(None, *sample), chunks=chunk)
            array: Any = file["prediction"]
            array.resize(len(array) + len(values), axis=0)
            array[-len(values) :] = values

        yield append


def _is_prediction(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return file.attrs.get("format") == _FORMAT
    except OSError:
        return False
