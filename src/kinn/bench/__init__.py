"""Speed: contenders that take turns, checked before they are timed, and what the machine could do at best."""

from kinn.bench.contenders import CONTENDERS, Contender
from kinn.bench.counting import scan_cost
from kinn.bench.machine import Machine, measure_machine
from kinn.bench.scans import QUICK, SHAPES, Shape, bench_scans, print_table
from kinn.bench.timing import summary, take_turns

__all__ = [
    "CONTENDERS",
    "QUICK",
    "SHAPES",
    "Contender",
    "Machine",
    "Shape",
    "bench_scans",
    "measure_machine",
    "print_table",
    "scan_cost",
    "summary",
    "take_turns",
]
