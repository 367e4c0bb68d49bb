"""The parts of a report in their order: an overview of a recipe where it has one, then its experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinn.report.comparison import Table, comparison_table
from kinn.report.overview import Overview, overview_table, overviews, transfer_table
from kinn.report.records import Experiment

if TYPE_CHECKING:
    from kinn.report.style import Picture


@dataclass(frozen=True)
class Section:
    """One part of a report; the page and the files for a paper hold the same tables and pictures.

    Args:
        source: what it is drawn from.
        table: the comparison, with the verdict and what else must be said as its notes.
    """

    source: Experiment | Overview
    table: Table

    @property
    def tables(self) -> list[tuple[str, Table]]:
        """What decides, without a heading; then further metrics and resolutions under theirs."""
        tables = [("", self.table.main()), *self.table.further().items()]
        transfer = transfer_table(self.source) if isinstance(self.source, Experiment) else None
        return tables if transfer is None else [*tables, ("Other resolutions", transfer)]

    def pictures(self) -> list[Picture]:
        """Every picture that the records hold enough for; needs matplotlib."""
        from kinn.report.costs import cost_pictures
        from kinn.report.curves import loss_pictures, overview_pictures, rollout_pictures
        from kinn.report.factors import factor_pictures
        from kinn.report.fields import field_pictures
        from kinn.report.spectra import spectrum_pictures
        from kinn.report.transfer import transfer_pictures

        if isinstance(self.source, Overview):
            return list(overview_pictures(self.source))
        makers = (
            *(factor_pictures, cost_pictures, field_pictures, rollout_pictures),
            *(spectrum_pictures, transfer_pictures, loss_pictures),
        )
        return [picture for maker in makers for picture in maker(self.source)]


def sections_of(experiments: Sequence[Experiment]) -> list[Section]:
    """The sections of a report.

    Args:
        experiments: from `kinn.report.load_records`.

    Returns:
        An overview stands before the first of its experiments.
    """
    before = {overview.experiments[0].slug: overview for overview in overviews(experiments)}
    sections = []
    for experiment in experiments:
        if (overview := before.get(experiment.slug)) is not None:
            sections.append(Section(overview, overview_table(overview)))
        sections.append(Section(experiment, comparison_table(experiment)))
    return sections
