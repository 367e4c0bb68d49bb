"""Pictures of spectra: how the error is spread over structures from large to small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kinn.report.panels import Curve, line_chart
from kinn.report.records import Experiment
from kinn.report.shots import samples
from kinn.report.style import Picture, Series, Theme, series
from kinn.report.wording import join


def spectrum_pictures(experiment: Experiment) -> Iterator[Picture]:
    """Power of the truth and of each variant's error against wavenumber, from the fields that were kept."""
    truths: list[Curve] = []
    errors: dict[str, list[Curve]] = {}
    for steps in samples(experiment).values():
        step = max((s for s in steps if s is not None), default=None)
        for i, (name, shot) in enumerate(steps[step].items()):
            if min(shot.truth.shape) < 8 or not np.isfinite(shot.error).all():
                continue
            errors.setdefault(name, []).append(power_spectrum(shot.error))
            truths += [power_spectrum(shot.truth)] if i == 0 else []
    curves = {"truth": truths, **errors}
    curves = {name: _average(runs) for name, runs in curves.items() if runs}
    if not errors or not truths:
        return
    curves = {name: runs for name, runs in curves.items() if runs[0][1].size > 1}
    caption = (
        "Power spectrum of the error beside that of the truth, averaged over directions and over the samples shown "
        f"({len(truths)}; of a rollout, the last step). Where a variant’s line meets the truth’s, nothing of that "
        "scale is predicted; small wavenumbers are large structures."
    )
    alt = f"Line chart of power against wavenumber for the truth and the errors of {join(list(errors))}."

    def styles(theme: Theme) -> dict[str, Series]:
        return {**series(experiment.variants, theme), "truth": Series(theme.ink, "solid", "o")}

    draw = line_chart(curves, styles, "wavenumber", "Power of the truth and of each error", log_x=True)
    yield Picture(f"{experiment.slug}-spectrum", "svg", caption, alt, draw)


def power_spectrum(field: np.ndarray) -> Curve:
    """Radially averaged power spectrum of a field on a unit square.

    Args:
        field: values of shape (nx, ny).

    Returns:
        Wavenumbers 1, 2, ... up to half the shorter side, and for each the mean of ``|FFT / (nx ny)|^2`` over the ring
        of modes whose modulus rounds to it.
    """
    power = np.abs(np.fft.fft2(field) / field.size) ** 2
    kx, ky = (np.fft.fftfreq(n, 1 / n) for n in field.shape)
    ring = np.hypot(kx[:, None], ky[None, :]).round().astype(int)
    highest = min(field.shape) // 2
    total = np.bincount(ring.ravel(), power.ravel())[1 : highest + 1]
    count = np.bincount(ring.ravel())[1 : highest + 1]
    return np.arange(1, highest + 1, dtype=float), total / count


def _average(runs: list[Curve]) -> list[Curve]:
    shortest = min(runs, key=lambda run: run[0].size)[0]
    values = np.mean([values[: shortest.size] for _, values in runs], axis=0)
    shown = values > 1e-12 * values.max()  # what lies below is rounding of the five digits kept
    return [(shortest[shown], values[shown])]
