"""Tables, figures and the HTML page, drawn from saved result records alone."""

from kinn.report.loading import load_records
from kinn.report.page import write_report
from kinn.report.paper import export
from kinn.report.tables import print_table

__all__ = ["export", "load_records", "print_table", "write_report"]
