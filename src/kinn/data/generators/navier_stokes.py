"""Navier-Stokes: trajectories of the vorticity of forced two-dimensional flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinn.data.generators.common import check_common, sample_generator, threads_for
from kinn.data.layouts.ours import TRAJECTORY_FORMAT
from kinn.data.writer import FilePlan, Progress, write_chunks
from kinn.pde import gaussian_random_field, navier_stokes_frames


def generate_navier_stokes(
    path: str | Path,
    *,
    samples: int,
    resolution: int = 64,
    solver_resolution: int = 256,
    viscosity: float = 1e-3,
    final_time: float = 50.0,
    frame_interval: float = 1.0,
    alpha: float = 2.5,
    tau: float = 7.0,
    seed: int = 0,
    chunk: int = 20,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Vorticity of forced two-dimensional flow on the unit torus (`kinn.pde.solve_navier_stokes`).

    Initial fields are Gaussian (`kinn.pde.gaussian_random_field`), the forcing is the benchmark's.

    Args:
        path: the HDF5 file to make: `/trajectory (samples, T, 1, resolution, resolution)`, float32, and `/time (T,)`.
        samples: number of trajectories.
        resolution: grid points along each axis that are kept: every `solver_resolution / resolution`-th.
        solver_resolution: grid points of the solver; a multiple of `resolution`.
        viscosity: 1e-3 (to `final_time` 50), 1e-4 (to 30) or 1e-5 (to 20) in the benchmark.
        final_time: of the last frame, in the units of the equation; a multiple of `frame_interval`.
        frame_interval: time between frames; the first is at `frame_interval`, the initial field is not kept.
        alpha: decay of the initial spectrum.
        tau: inverse correlation length of the initial field.
        seed: the initial field of sample `i` depends on the seed, `i`, `alpha`, `tau` and `solver_resolution` alone.
        chunk: trajectories computed at once; 20 at 256^2 take about 100 MB in float32.
        device: where to compute; files made on different devices agree to rounding, not bit by bit.
        dtype: of the solver, float32 or float64.
        overwrite: replace what lies at `path`.
        progress: called with the frames done and their total over all samples.

    Returns:
        `path`. A call that finds it finished with the same parameters returns at once; one that finds `<path>.part`
        goes on from there.

    Raises:
        ValueError: if a parameter is out of range, or `path` holds other data.
        OSError: if the disk is too small or gets full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     generate_navier_stokes(
        ...         f"{folder}/flow.h5", samples=2, resolution=16, solver_resolution=32, final_time=3
        ...     ).name
        'flow.h5'
    """
    sizes = {"resolution": resolution, "solver_resolution": solver_resolution, "chunk": chunk}
    check_common(samples, seed, device=device, dtype=dtype, **sizes)
    if resolution < 1 or solver_resolution % resolution:
        raise ValueError(
            f"solver_resolution must be a multiple of resolution, but they are {solver_resolution}, {resolution}"
        )
    if not (final_time > 0 and frame_interval > 0):
        raise ValueError(f"final_time and frame_interval must be positive, but are {final_time} and {frame_interval}")
    n_frames = round(final_time / frame_interval)
    if n_frames < 1 or abs(n_frames * frame_interval - final_time) > 1e-6 * final_time:
        raise ValueError(
            f"final_time must be a multiple of frame_interval, but they are {final_time} and {frame_interval}"
        )
    if not viscosity >= 0:
        raise ValueError(f"viscosity must not be negative, but is {viscosity}")
    every = solver_resolution // resolution

    def make(rows: range, tick: Callable[[int], None]) -> dict[str, Tensor]:
        draws = [
            gaussian_random_field(
                1, solver_resolution, generator=sample_generator(seed, row), alpha=alpha, tau=tau, dtype=dtype
            )
            for row in rows
        ]
        w0, frames = torch.cat(draws).to(device), []
        solution = navier_stokes_frames(w0, n_frames, viscosity=viscosity, frame_interval=frame_interval)
        with threads_for(solver_resolution):
            for done, w in enumerate(solution, start=1):
                frames.append(w[:, ::every, ::every].to("cpu", torch.float32, copy=True))
                if done < n_frames:
                    tick(done * len(rows))
        return {"trajectory": torch.stack(frames, dim=1)[:, :, None]}

    plan = FilePlan(
        kind=TRAJECTORY_FORMAT,
        equation="navier-stokes",
        samples=samples,
        shapes={"trajectory": (n_frames, 1, resolution, resolution)},
        parameters={
            "samples": samples,
            "resolution": resolution,
            "solver_resolution": solver_resolution,
            "viscosity": viscosity,
            "final_time": float(final_time),
            "frame_interval": float(frame_interval),
            "alpha": float(alpha),
            "tau": float(tau),
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
        },
        constants={"time": frame_interval * np.arange(1, n_frames + 1)},
        work_per_sample=n_frames,
    )
    return write_chunks(path, plan, make, chunk=chunk, overwrite=overwrite, progress=progress)
