"""Darcy flow: pairs of permeability and pressure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kinn.data.generators.common import check_common, sample_generator, threads_for
from kinn.data.layouts.ours import OPERATOR_FORMAT
from kinn.data.writer import FilePlan, Progress, write_chunks
from kinn.pde import darcy_bumps, darcy_coefficient, solve_darcy
from kinn.pde.darcy import Bumps


def generate_darcy(
    path: str | Path,
    *,
    samples: int,
    resolution: int = 128,
    beta: float = 1.0,
    high: float = 1.0,
    low: float = 0.1,
    bumps: int = 5,
    seed: int = 0,
    chunk: int = 32,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Pairs of permeability and pressure of Darcy flow on the unit square (`kinn.pde.solve_darcy`).

    Args:
        path: the HDF5 file to make: `/input` and `/output`, each `(samples, 1, resolution, resolution)`, float32.
        samples: number of pairs.
        resolution: cells along each axis; values are at their centres.
        beta: source, uniform.
        high: permeability inside.
        low: permeability outside.
        bumps: Gaussian bumps whose sum is thresholded.
        seed: sample `i` depends on the seed, on `i` and on `bumps` alone: the same medium at every resolution.
        chunk: samples made and written at once.
        device: where to solve; files made on different devices agree to rounding.
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
        ...     generate_darcy(f"{folder}/darcy.h5", samples=4, resolution=16).name
        'darcy.h5'
    """
    check_common(samples, seed, device=device, resolution=resolution, bumps=bumps, chunk=chunk)

    def draw(row: int) -> Bumps:
        return darcy_bumps(1, bumps, generator=sample_generator(seed, row))

    darcy_coefficient(draw(0), resolution, high=high, low=low)  # early errors

    def make(rows: range, tick: Callable[[int], None]) -> dict[str, Tensor]:
        drawn = [draw(row) for row in rows]
        media = Bumps(torch.cat([one.centres for one in drawn]), torch.cat([one.widths for one in drawn]))
        a = darcy_coefficient(media, resolution, high=high, low=low)
        with threads_for(resolution):
            u = solve_darcy(a.to(device), beta=beta)
        return {"input": a[:, None].float(), "output": u[:, None].float().cpu()}

    field = (1, resolution, resolution)
    plan = FilePlan(
        kind=OPERATOR_FORMAT,
        equation="darcy",
        samples=samples,
        shapes={"input": field, "output": field},
        parameters={
            "samples": samples,
            "resolution": resolution,
            "beta": float(beta),
            "high": float(high),
            "low": float(low),
            "bumps": bumps,
            "seed": seed,
        },
    )
    return write_chunks(path, plan, make, chunk=chunk, overwrite=overwrite, progress=progress)
