"""A physics-informed network for the radial dam break: no data but the initial field, one network per flow (DeepXDE).

The network maps `(x, y, t)` to `(h, u, v)`, water depth and velocity. Its loss is the mean square of the residuals of

    h_t + (h u)_x + (h v)_y = 0
    u_t + u u_x + v u_y + g h_x = 0
    v_t + u v_x + v v_y + g h_y = 0

at random points, of `h - h_0`, `u` and `v` at `t = 0` on the grid of the data, and of `dh/dn` on the boundary: the
problem as PDEBench (Takamoto et al., 2022) poses it for its PINN.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kinn.data import TrajectoryDataset
from kinn.data.layouts.fitting import domain_of, number
from kinn.files import atomic_file
from kinn.metrics import FieldErrors
from kinn.recipes.experiment import Experiment
from kinn.records import peak_memory, reset_peak_memory
from kinn.train import chosen_device, sample_field
from kinn.train.evaluate import Spectra, steps_of

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class PINNSettings:
    """How one network is trained on the equations; they go into the records.

    Args:
        iterations: of Adam.
        half_width: of the domain.
        gravity: `g`.
        width: of the network's hidden layers, activation tanh.
        depth: how many of them.
        lr: learning rate.
        interior_points: of space and time, at which the residuals are taken.
        boundary_points: at which the boundary condition is.
        initial_points: of the grid at time 0, at most.
    """

    iterations: int
    half_width: float = 2.5
    gravity: float = 1.0
    width: int = 40
    depth: int = 6
    lr: float = 1e-3
    interior_points: int = 1000
    boundary_points: int = 200
    initial_points: int = 5000


def forecast_by_pinn(
    initial: Float[Tensor, "n n"],
    times: list[float],
    settings: PINNSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Float[Tensor, "t n n"], int]:
    """Water depth at some times by a network that is trained on the equations for this flow alone.

    Args:
        initial: depth `h` at time 0 at the centres of `n x n` cells of `[-half_width, half_width]^2`; at rest.
        times: at which to return `h`; the network is trained up to the last of them.
        settings: of network and training.
        seed: of weights and points.
        device: "cpu", "cuda" or "auto".

    Returns:
        `h (t, n, n)` on the CPU, and the number of the network's parameters.

    Raises:
        ImportError: if DeepXDE is not installed.
    """
    half_width = settings.half_width
    with _deepxde(chosen_device(device), seed) as dde:
        box = dde.geometry.Rectangle([-half_width] * 2, [half_width] * 2)
        domain = dde.geometry.GeometryXTime(box, dde.geometry.TimeDomain(0.0, times[-1]))

        def residuals(points: Tensor, state: Tensor) -> list[Tensor]:
            def slope(of: int, along: int) -> Tensor:
                return dde.grad.jacobian(state, points, i=of, j=along)

            (h, u, v), (x, y, t) = state.split(1, dim=1), range(3)
            return [
                slope(0, t) + u * slope(0, x) + h * slope(1, x) + v * slope(0, y) + h * slope(2, y),
                slope(1, t) + u * slope(1, x) + v * slope(1, y) + settings.gravity * slope(0, x),
                slope(2, t) + u * slope(2, x) + v * slope(2, y) + settings.gravity * slope(0, y),
            ]

        cells = _cells(initial.shape[-1], half_width)
        start = np.column_stack((cells, np.zeros(len(cells))))
        some = np.random.default_rng(seed).permutation(len(start))[: settings.initial_points]
        depth0 = initial.double().cpu().numpy().reshape(-1, 1)
        conditions = [dde.icbc.PointSetBC(start[some], depth0[some], component=0)]
        conditions += [dde.icbc.PointSetBC(start[some], 0.0, component=part) for part in (1, 2)]
        conditions.append(dde.icbc.NeumannBC(domain, lambda points: 0.0, lambda point, at_edge: at_edge, component=0))
        points = {"num_domain": settings.interior_points, "num_boundary": settings.boundary_points}
        data = dde.data.TimePDE(domain, residuals, conditions, **points)
        network = dde.nn.FNN([3, *[settings.width] * settings.depth, 3], "tanh", "Glorot normal")
        model = dde.Model(data, network)
        model.compile("adam", lr=settings.lr, verbose=0)
        model.train(iterations=settings.iterations, display_every=max(settings.iterations, 1), verbose=0)
        frames = [model.predict(np.column_stack((cells, np.full(len(cells), t))))[:, 0] for t in times]
        parameters = sum(p.numel() for p in network.parameters())
    return torch.from_numpy(np.stack(frames)).float().reshape(len(times), *initial.shape), parameters


def pinn_result(
    experiment: Experiment,
    test: TrajectoryDataset,
    *,
    iterations: int,
    flows: int,
    seed: int,
    device: str,
    folder: Path,
) -> dict[str, Any]:
    """Forecasts of the first test flows, measured as the learned models' are; finished flows are kept in `folder`.

    Args:
        experiment: says which frames the learned models are given, and whose fields to keep.
        test: the test part; only the first frame of a flow is shown to its network.
        iterations: per flow.
        flows: how many, each with a network of its own.
        seed: of all networks.
        device: where they are trained.
        folder: for forecasts that are finished.

    Returns:
        the part of a result record that training and evaluation give.

    Raises:
        ValueError: if the data state a domain that is not centred.
    """
    assert experiment.rollout is not None
    history, errors, seconds, parameters, fields = experiment.rollout.n_history, FieldErrors(time_axis=1), 0.0, 0, []
    settings, flows, memory = posed_by(test, iterations), min(flows, len(test)), {}
    spectra = Spectra(experiment.field_steps)
    for index in range(flows):
        truth = test[index]
        path = folder / f"flow{index}-{_identity(truth, test.time, settings, seed)}.npz"
        found = _kept(path, partial(_solved, truth, test.time, settings, seed, device))
        prediction = torch.from_numpy(found["h"])[history:, None]
        seconds, parameters = seconds + float(found["seconds"]), int(found["parameters"])
        for name in found.keys() & {"peak_rss_bytes", "peak_gpu_bytes"}:
            memory[name] = max(memory.get(name, 0), int(found[name]))
        spectra.update(prediction[None], truth[None, history:])
        errors.update(prediction[None], truth[None, history:])
        for step in steps_of(experiment.field_steps, len(prediction)) if index == 0 else ():
            shown = (truth[history - 1, 0], truth[history + step - 1, 0], prediction[step - 1, 0])
            fields.append(sample_field("sample 0", step, *shown))
    metrics, per_step = errors.compute(), errors.relative_l2_per_step()
    return {
        "parameters": parameters,
        "metrics": {"test": metrics},  # nothing was normalised
        "curves": {"rollout_step": list(range(1, len(per_step) + 1)), "rollout_relative_l2": per_step},
        "config": {"solver": asdict(settings)},
        "test_samples": flows,
        "time": {"train_seconds": seconds},
        "memory": memory,
        "fields": fields,
        "spectra": spectra.compute(),
    }


def posed_by(flows: TrajectoryDataset, iterations: int = 0) -> PINNSettings:
    """The equations' constants as the data state them, PDEBench's where they do not, as its files don't.

    Raises:
        ValueError: if the data state no numbers, or a domain that is not centred.
    """
    settings = PINNSettings(iterations)
    low, high = domain_of(flows.metadata, (-settings.half_width, settings.half_width))
    if not low == -high < 0:
        raise ValueError(f"the PINN needs a square domain about the origin, but the data state [{low:g}, {high:g}]")
    gravity = number(flows.metadata.get("gravity", settings.gravity), "gravity in the metadata")
    return replace(settings, half_width=high, gravity=gravity)


def _identity(truth: Tensor, times: list[float] | None, settings: PINNSettings, seed: int) -> str:
    """All that determines a forecast, as a part of its file's name."""
    about = json.dumps([asdict(settings), seed, times]).encode() + truth[0, 0].contiguous().numpy().tobytes()
    return hashlib.sha256(about).hexdigest()[:12]


def _solved(truth: Tensor, times: list[float] | None, settings: PINNSettings, seed: int, device: str) -> dict[str, Any]:
    assert times is not None
    reset_peak_memory()
    started = time.perf_counter()
    h, parameters = forecast_by_pinn(truth[0, 0], times, settings, seed=seed, device=device)
    return {"h": h.numpy(), "seconds": time.perf_counter() - started, "parameters": parameters, **peak_memory()}


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        made = make()
        with atomic_file(path) as file:
            np.savez(file, **made)
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _cells(n: int, half_width: float) -> np.ndarray:
    centres = half_width * ((2 * np.arange(n) + 1) / n - 1)
    x, y = np.meshgrid(centres, centres, indexing="ij")
    return np.column_stack((x.ravel(), y.ravel()))


@contextmanager
def _deepxde(device: torch.device, seed: int) -> Iterator[Any]:
    """DeepXDE on a device and under a seed, without what else it does: it prints, seeds, makes a GPU the default."""
    # None: naming the CPU as default would leave a mode behind, which torch.compile cannot trace
    before = None if torch.get_default_device().type == "cpu" else torch.get_default_device()
    generator = np.random.get_state()  # noqa: NPY002, as DeepXDE uses it
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            import deepxde
    except ImportError as error:
        raise ImportError("the PINN needs DeepXDE: pip install 'kinn-torch[pinn]'") from error
    finally:
        torch.set_default_device(before)
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus), torch.device(device):
            deepxde.config.set_random_seed(seed)  # pyright: ignore[reportAttributeAccessIssue]
            with redirect_stdout(StringIO()):
                yield deepxde
    finally:
        np.random.set_state(generator)  # noqa: NPY002
        torch.set_default_device(before)
