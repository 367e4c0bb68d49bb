"""Pictures of spectra: how the error is spread over structures from large to small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kinn.report.panels import Curve, Curves, line_chart
from kinn.report.records import Experiment
from kinn.report.shots import samples
from kinn.report.style import Picture, Series, Theme, series
from kinn.report.wording import join
from kinn.spectrum import power_spectrum

TRUTH = "truth"


def spectrum_pictures(experiment: Experiment) -> Iterator[Picture]:
    """Power of the truth and of each variant's error against wavenumber, over the test set where records have it."""
    curves, where = _of_test_set(experiment) or _of_fields(experiment)
    curves = {name: [_drawable(run) for run in runs] for name, runs in curves.items()}
    curves = {name: runs for name, runs in curves.items() if all(run[1].size > 1 for run in runs)}
    if TRUTH not in curves or len(curves) < 2:
        return
    kept = [sample for record in experiment.records for sample in (*record.fields, *record.spectra)]
    step = ", of the last step" if any(sample.get("step") is not None for sample in kept) else ""
    caption = (
        f"Power spectrum of the error beside that of the truth, averaged over directions and over {where}{step}. "
        "Where a variant’s line meets the truth’s, nothing of that scale is predicted; small wavenumbers are large "
        "structures."
    )
    if any(len(runs) > 1 for runs in curves.values()):
        caption += " One line per seed."
    names = [name for name in curves if name != TRUTH]
    alt = f"Line chart of power against wavenumber for the truth and the errors of {join(names)}."

    def styles(theme: Theme) -> dict[str, Series]:
        return {**series(experiment.variants, theme), TRUTH: Series(theme.ink, "solid", "o")}

    draw = line_chart(curves, styles, "wavenumber", "Power of the truth and of each error", log_x=True)
    yield Picture(f"{experiment.slug}-spectrum", "svg", caption, alt, draw)


def _of_test_set(experiment: Experiment) -> tuple[Curves, str] | None:
    """The spectra in the records; None unless each variant that kept fields has some, to compare like with like."""
    curves: Curves = {TRUTH: []}
    counts: dict[str, int] = {}
    for variant in experiment.variants:
        records = [record for record in variant.records if record.spectra]
        if not records and any(record.fields for record in variant.records):
            return None
        for record in records:
            last = max(record.spectra, key=lambda spectrum: spectrum.get("step") or 0)
            if None in last["error"] or len(last["error"]) < 2:
                continue
            truth, error = (np.asarray(last[name], dtype=float) for name in ("truth", "error"))
            wavenumbers = np.arange(1.0, error.size + 1)
            curves.setdefault(variant.name, []).append((wavenumbers, error))
            if last["samples"] > max(counts.values(), default=0):
                curves[TRUTH] = [(wavenumbers, truth)]
            counts[variant.name] = last["samples"]
    if not counts:
        return None
    most = max(counts.values())
    fewer = [f"{name}: {count}" for name, count in counts.items() if count < most]
    return curves, f"{most} test samples{f' ({join(fewer)})' if fewer else ''}"


def _of_fields(experiment: Experiment) -> tuple[Curves, str]:
    """Spectra of the few samples whose fields the first run of each variant kept."""
    truths: list[Curve] = []
    errors: Curves = {}
    for steps in samples(experiment).values():
        step = max((s for s in steps if s is not None), default=None)
        for i, (name, shot) in enumerate(steps[step].items()):
            if min(shot.truth.shape) < 8 or not np.isfinite(shot.error).all():
                continue
            errors.setdefault(name, []).append(power_spectrum(shot.error))
            truths += [power_spectrum(shot.truth)] if i == 0 else []
    curves = {name: [_average(runs)] for name, runs in {TRUTH: truths, **errors}.items() if runs}
    one = len(truths) == 1
    return curves, "the one test sample shown" if one else f"the {len(truths)} test samples shown"


def _average(runs: list[Curve]) -> Curve:
    shortest = min(runs, key=lambda run: run[0].size)[0]
    return shortest, np.mean([values[: shortest.size] for _, values in runs], axis=0)


def _drawable(run: Curve) -> Curve:
    wavenumbers, values = run
    shown = values > 1e-12 * values.max()  # what lies below is rounding
    return wavenumbers[shown], values[shown]
