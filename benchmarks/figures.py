"""Draw the figures of `docs/results.md` from the records in `results/`.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path

from kinn.report.speed import draw_scaling, draw_scans

FIGURES = {"selective_scan_cpu": draw_scans, "cascade_scaling_cpu": draw_scaling}


def main() -> None:
    folder = Path("docs/figures")
    folder.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw(json.loads(Path(f"results/{name}.json").read_text()))
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
