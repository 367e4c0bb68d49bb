"""The same figures and tables as files of their own, for a paper."""

from __future__ import annotations

from pathlib import Path

from kinn.files import write_bytes
from kinn.report.loading import Source, load_records
from kinn.report.page import require_extra
from kinn.report.sections import sections_of
from kinn.report.tables import to_latex, to_markdown


def export(source: Source, folder: str | Path) -> list[Path]:
    """Write every figure (SVG, PDF, PNG; caption in a text file) and table (LaTeX, Markdown) of the report as files.

    Names follow from recipe, experiment and budget, and stay the same from run to run; so do the bytes for the same
    records. LaTeX needs the package booktabs.

    Args:
        source: a folder or files with result records, or the records themselves.
        folder: where to write; made if need be.

    Returns:
        The paths written.

    Raises:
        ImportError: the extra ``report`` is not installed.
        ValueError: from `kinn.report.load_records`.
    """
    require_extra()
    from kinn.report.style import PAPER

    paths = []
    for section in sections_of(load_records(source)):
        files = {}
        for _, table in section.tables:
            files |= {f"{table.slug}.tex": to_latex(table).encode(), f"{table.slug}.md": to_markdown(table).encode()}
        for picture in section.pictures():
            files |= {f"{picture.name}.{kind}": content for kind, content in picture.files(PAPER).items()}
            files[f"{picture.name}.txt"] = f"{picture.caption}\n".encode()
        for name, content in files.items():
            write_bytes(Path(folder) / name, content)
            paths.append(Path(folder) / name)
    return paths
