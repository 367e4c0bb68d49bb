"""The report: one HTML page that holds everything."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from kinn._version import __version__
from kinn.files import write_text
from kinn.report.loading import Source, load_records
from kinn.report.overview import Overview
from kinn.report.records import Experiment
from kinn.report.schema import Record
from kinn.report.sections import sections_of
from kinn.report.tables import to_html
from kinn.report.wording import METRIC_MEANINGS, NORMALIZED, flatten, join, metric_name, show_value


def write_report(source: Source, output: str | Path) -> Path:
    """Write one self-contained HTML page: tables with verdicts, figures, provenance, and how to read the metrics.

    The page needs no network and no script; it follows the reader's light or dark setting and prints well.

    Args:
        source: a folder or files with result records, or the records themselves.
        output: the file to write, or an existing folder, in which it becomes ``report.html``.

    Returns:
        The path of the page.

    Raises:
        ImportError: the extra ``report`` is not installed.
        ValueError: from `kinn.report.load_records`.
    """
    require_extra()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from kinn.report.style import DARK, LIGHT

    experiments = load_records(source)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    metrics = dict.fromkeys(name for e in experiments for name in (e.primary_metric, *e.other_metrics))
    plain = dict.fromkeys(name.removesuffix(NORMALIZED) for name in metrics)
    sections, numbers = [], count(1)
    for part in sections_of(experiments):
        figures = []
        for picture in part.pictures():
            uris = {"light": picture.data_uri(LIGHT), "dark": picture.data_uri(DARK)}
            figures.append({"number": next(numbers), "caption": picture.caption, "alt": picture.alt, **uris})
        main, *further = ((heading, Markup(to_html(table))) for heading, table in part.tables)
        section = {
            "anchor": part.source.slug,
            "title": part.source.title,
            "notes": part.table.notes,
            "figures": figures,
        }
        section |= {"table": main[1], "further": further, **_words(part.source)}
        sections.append(section)
    html = environment.get_template("report.html").render(
        lede=_lede(experiments),
        sections=sections,
        metrics=[(metric_name(name), METRIC_MEANINGS[name]) for name in plain if name in METRIC_MEANINGS],
        evaluated=_evaluated([record for experiment in experiments for record in experiment.records]),
        has_normalised=len(plain) < len(metrics) or any(name.endswith(NORMALIZED) for name in metrics),
        has_paper=any(record.paper for experiment in experiments for record in experiment.records),
        has_ratio=any(record.paper_ratio for experiment in experiments for record in experiment.records),
        has_transfer=any(record.transfer for experiment in experiments for record in experiment.records),
        provenance=[(t, _distinct(experiments, w)) for t, w in (("Machine", "hardware"), ("Versions", "versions"))],
        kinn_version=__version__,
    )
    path = Path(output)
    path = path / "report.html" if path.is_dir() else path
    write_text(path, html)
    return path


def require_extra() -> None:
    """Say what to install where drawing is not possible."""
    missing = [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise ImportError(f"reports need {' and '.join(missing)}: pip install kinn-torch[report]")


def _lede(experiments: list[Experiment]) -> str:
    runs = [record for experiment in experiments for record in experiment.records]
    variants = sum(len(experiment.variants) for experiment in experiments)
    recipes = join(list(dict.fromkeys(record.recipe for record in runs if record.recipe)))
    days = sorted(record.date[:10] for record in runs if record.date)
    when = f", {days[0]}" if days and days[0] == days[-1] else f", {days[0]} to {days[-1]}" if days else ""
    return (
        f"{_count(len(runs), 'evaluation' if _evaluated(runs) else 'training run')} of {_count(variants, 'model')} in "
        f"{_count(len(experiments), 'experiment')}{f', recipe {recipes}' if recipes else ''}{when}."
    )


def _evaluated(records: list[Record]) -> bool:
    """Whether a page shows what `kinn evaluate` wrote, of which nothing is known but the file that it read."""
    return any(record.kind == "evaluation" for record in records)


def _words(source: Experiment | Overview) -> dict[str, Any]:
    """What a section says beside its tables and figures."""
    if isinstance(source, Overview):
        count, recipe = _count(len(source.experiments), "experiment"), source.experiments[0].recipe
        what = f"{count} of the recipe {recipe} side by side; each follows by itself below."
        return {"what": what, "trained_on": "", "settings": [], "runs": []}
    settings = {"settings": _settings(source), "runs": _runs(source)}
    return {"what": _what(source), "trained_on": _trained_on(source), **settings}


def _what(experiment: Experiment) -> str:
    """Who was compared with whom, under which budget."""
    names = {role: join([v.name for v in experiment.variants if v.role == role]) for role in ("ours", "baseline")}
    seeds = sorted({record.seed for record in experiment.records})
    text = f"Ours: {names['ours'] or 'none'}. Baseline: {names['baseline'] or 'none'}."
    text += f" {'Seed' if len(seeds) == 1 else 'Seeds'} {join(list(map(str, seeds)))}"
    text += f", budget {experiment.budget}." if experiment.budget else "."
    return f"{text} The primary metric is {metric_name(experiment.primary_metric)} on test."


def _trained_on(experiment: Experiment) -> str:
    """The data in one line; the page holds all settings further down."""
    shared = dict(_settings(experiment)).get("Data", [])
    return f"Data: {', '.join(f'{key} {value}' for key, value in shared)}." if shared else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _settings(experiment: Experiment) -> list[tuple[str, list[tuple[str, str]]]]:
    """Data and training settings that all runs share, and those of each solver; the verdict names what differs."""
    groups = []
    for title, what in (("Data", "data"), ("Training", "config")):
        of = [record for record in experiment.records if what == "data" or record.trained]
        runs = [run for record in of if (run := flatten(getattr(record, what)))]
        shared = {k: v for k, v in next(iter(runs), {}).items() if all(repr(run.get(k)) == repr(v) for run in runs)}
        if shared:
            groups.append((title, [(key.replace("_", " "), show_value(value)) for key, value in shared.items()]))
    for variant in experiment.variants:
        if solver := variant.records[0].config.get("solver"):
            groups.append((variant.name, [(key.replace("_", " "), show_value(value)) for key, value in solver.items()]))
    return groups


def _runs(experiment: Experiment) -> list[dict[str, Any]]:
    return [
        {
            "variant": record.variant,
            "seed": record.seed,
            "best_epoch": show_value(record.best_epoch),
            "date": record.date,
        }
        | {"command": record.command, "model": record.model, "arguments": show_value(record.arguments)}
        for record in experiment.records
    ]


def _distinct(experiments: list[Experiment], what: str) -> list[list[tuple[str, str]]]:
    found = (getattr(record, what) for experiment in experiments for record in experiment.records)
    unique = {json.dumps(item, sort_keys=True, default=str): item for item in found if item}
    return [[(key.replace("_", " "), show_value(value)) for key, value in item.items()] for item in unique.values()]
