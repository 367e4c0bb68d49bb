"""Shallow water: trajectories of the depth after a radial dam breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinn.data.generators.common import check_common, sample_generator, threads_for
from kinn.data.layouts.ours import TRAJECTORY_FORMAT
from kinn.data.writer import FilePlan, Progress, write_chunks
from kinn.pde import dam_break, shallow_water_frames

_HALF_WIDTH = 2.5


def generate_shallow_water(
    path: str | Path,
    *,
    samples: int,
    resolution: int = 128,
    solver_resolution: int | None = None,
    final_time: float = 1.0,
    n_frames: int = 101,
    gravity: float = 1.0,
    inner_height: float = 2.0,
    outer_height: float = 1.0,
    radius: tuple[float, float] = (0.3, 0.7),
    seed: int = 0,
    chunk: int = 10,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Depth of the water after a centred radial dam breaks, on `[-2.5, 2.5]^2` (`kinn.pde.shallow_water_frames`).

    Args:
        path: the HDF5 file to make: `/trajectory (samples, n_frames, 1, resolution, resolution)`, float32, and
            `/time (n_frames,)`.
        samples: number of trajectories.
        resolution: cells along each axis that are kept, means over the solver's.
        solver_resolution: cells of the solver along each axis, a multiple of `resolution`; `resolution` if None.
        final_time: of the last frame; the first is the initial field, at time 0.
        n_frames: frames at equal distances, both ends included.
        gravity: `g`.
        inner_height: depth within the dam at the start.
        outer_height: depth beyond it.
        radius: the dam's radius is uniform between these two.
        seed: the radius of sample `i` depends on the seed, `i` and `radius` alone: the same dam at every resolution.
        chunk: trajectories computed at once; 10 of 101 frames at 128^2 take about 180 MB in float32.
        device: where to compute; files made on different devices agree to rounding.
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
        ...     generate_shallow_water(f"{folder}/dam.h5", samples=2, resolution=16, n_frames=3).name
        'dam.h5'
    """
    cells = resolution if solver_resolution is None else solver_resolution
    sizes = {"resolution": resolution, "solver_resolution": cells, "n_frames": n_frames, "chunk": chunk}
    check_common(samples, seed, device=device, dtype=dtype, **sizes)
    if resolution < 1 or cells < 1 or cells % resolution:
        raise ValueError(f"solver_resolution must be a multiple of resolution, but they are {cells}, {resolution}")
    if n_frames < 2 or not final_time > 0:
        raise ValueError(f"n_frames must be at least 2 and final_time positive, but are {n_frames} and {final_time}")
    low, high = radius
    if not 0 <= low <= high:
        raise ValueError(f"radius must be a range of non-negative numbers, but is {low} to {high}")
    if not (gravity > 0 and min(inner_height, outer_height) >= 0):
        raise ValueError(
            f"gravity must be positive and heights not negative, but are {gravity}, {inner_height}, {outer_height}"
        )

    def draw(row: int) -> Tensor:
        uniform = torch.rand(1, generator=sample_generator(seed, row), dtype=torch.float64)
        return low + (high - low) * uniform

    def kept(state: Tensor) -> Tensor:
        depth = state[:, :1]
        return torch.nn.functional.avg_pool2d(depth, cells // resolution).to("cpu", torch.float32, copy=True)

    def make(rows: range, tick: Callable[[int], None]) -> dict[str, Tensor]:
        radii = torch.cat([draw(row) for row in rows])
        state = dam_break(radii, cells, half_width=_HALF_WIDTH, inner=inner_height, outer=outer_height)
        state = state.to(device, dtype)
        solution = shallow_water_frames(
            state,
            n_frames - 1,
            spacing=2 * _HALF_WIDTH / cells,
            frame_interval=final_time / (n_frames - 1),
            gravity=gravity,
        )
        frames = [kept(state)]
        with threads_for(cells):
            for done, later in enumerate(solution, start=2):
                frames.append(kept(later))
                if done < n_frames:
                    tick(done * len(rows))
        return {"trajectory": torch.stack(frames, dim=1)}

    plan = FilePlan(
        kind=TRAJECTORY_FORMAT,
        equation="shallow-water",
        samples=samples,
        shapes={"trajectory": (n_frames, 1, resolution, resolution)},
        parameters={
            "samples": samples,
            "resolution": resolution,
            "solver_resolution": cells,
            "final_time": float(final_time),
            "n_frames": n_frames,
            "gravity": float(gravity),
            "inner_height": float(inner_height),
            "outer_height": float(outer_height),
            "radius": [float(low), float(high)],
            "domain": [-_HALF_WIDTH, _HALF_WIDTH],
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
        },
        constants={"time": np.linspace(0.0, final_time, n_frames)},
        work_per_sample=n_frames,
    )
    return write_chunks(path, plan, make, chunk=chunk, overwrite=overwrite, progress=progress)
