"""Poisson's equation: pairs of source and potential in closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kinn.data.generators.common import check_common, sample_generator
from kinn.data.layouts.ours import OPERATOR_FORMAT
from kinn.data.writer import FilePlan, Progress, write_chunks
from kinn.pde import poisson_coefficients, poisson_pair


def generate_poisson(
    path: str | Path,
    *,
    samples: int,
    resolution: int = 64,
    max_mode: int = 16,
    smoothness: float = 0.5,
    points: str = "nodes",
    seed: int = 0,
    chunk: int = 256,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Pairs of source and potential of Poisson's equation on the unit square (`kinn.pde.poisson_pair`).

    Args:
        path: the HDF5 file to make: `/input` and `/output`, each `(samples, 1, resolution, resolution)`, float32.
        samples: number of pairs.
        resolution: grid points along each axis.
        max_mode: highest sine mode `K`; 16 in the benchmark, 20 out of distribution.
        smoothness: exponent `r`.
        points: "nodes" (boundary included) or "centers".
        seed: sample `i` depends on the seed, on `i` and on `max_mode` alone.
        chunk: samples made and written at once.
        overwrite: replace what lies at `path`.
        progress: called with the samples done and their total.

    Returns:
        `path`. A call that finds it finished with the same parameters returns at once; one that finds `<path>.part`
        goes on from there.

    Raises:
        ValueError: if a parameter is out of range, or `path` holds other data.
        OSError: if the disk is too small or gets full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     generate_poisson(f"{folder}/poisson.h5", samples=8, resolution=32).name
        'poisson.h5'
    """
    check_common(samples, seed, resolution=resolution, max_mode=max_mode, chunk=chunk)
    poisson_pair(torch.zeros(1, max(max_mode, 1), max(max_mode, 1)), resolution, points=points)  # early errors

    def make(rows: range, tick: Callable[[int], None]) -> dict[str, Tensor]:
        draws = [poisson_coefficients(1, max_mode, generator=sample_generator(seed, row, max_mode)) for row in rows]
        source, potential = poisson_pair(torch.cat(draws), resolution, smoothness=smoothness, points=points)
        return {"input": source[:, None].float(), "output": potential[:, None].float()}

    field = (1, resolution, resolution)
    plan = FilePlan(
        kind=OPERATOR_FORMAT,
        equation="poisson",
        samples=samples,
        shapes={"input": field, "output": field},
        parameters={
            "samples": samples,
            "resolution": resolution,
            "max_mode": max_mode,
            "smoothness": smoothness,
            "points": points,
            "seed": seed,
        },
    )
    return write_chunks(path, plan, make, chunk=chunk, overwrite=overwrite, progress=progress)
