"""Draw the figures of `docs/results.md` from the records in `results/`.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl

from kinn.report import load_records
from kinn.report.sections import sections_of
from kinn.report.speed import draw_scaling, draw_scans
from kinn.report.style import PAPER

FIGURES = {"selective_scan_cpu": draw_scans, "cascade_scaling_cpu": draw_scaling}
OF_REPORTS = {
    "darcy": ("darcy-small-fields-1", "darcy-small-spectrum", "darcy-small-resolutions"),
    "shallow-water": ("shallow-water-small-fields-1", "shallow-water-small-rollout"),
    "poisson-order": ("poisson-order-small-order",),
    "ns-rollout": ("ns-rollout-small-overview-rollout",),
    "ns-routes": ("ns-routes-small-routes", "ns-routes-small-costs"),
}


def main() -> None:
    folder = Path("docs/figures")
    folder.mkdir(exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "kinn"  # the same bytes for the same records
    for name, draw in FIGURES.items():
        figure = draw(json.loads(Path(f"results/{name}.json").read_text()))
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    for recipe, names in OF_REPORTS.items():
        sections = sections_of(load_records(f"results/{recipe}"))
        pictures = {picture.name: picture for section in sections for picture in section.pictures()}
        for name in names:
            (folder / f"{name}.svg").write_bytes(pictures[name].files(PAPER, ("svg",))["svg"])


if __name__ == "__main__":
    main()
