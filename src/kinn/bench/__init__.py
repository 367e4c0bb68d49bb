"""Speed: contenders that take turns, checked before they are timed, and what the machine could do at best."""

from kinn.bench.cascades import WithoutScan
from kinn.bench.checks import difference, model_difference, refuse_wrong
from kinn.bench.contenders import CONTENDERS, Contender
from kinn.bench.counting import cascade_cost, scan_cost
from kinn.bench.machine import Machine, measure_machine
from kinn.bench.memory import NoMemoryError, peak_memory_apart
from kinn.bench.scans import bench_scans, print_table
from kinn.bench.shapes import QUICK, SHAPES, CascadeShape, Shape
from kinn.bench.timing import summary, take_turns

__all__ = [
    "CONTENDERS",
    "QUICK",
    "SHAPES",
    "CascadeShape",
    "Contender",
    "Machine",
    "NoMemoryError",
    "Shape",
    "WithoutScan",
    "bench_scans",
    "cascade_cost",
    "difference",
    "measure_machine",
    "model_difference",
    "peak_memory_apart",
    "print_table",
    "refuse_wrong",
    "scan_cost",
    "summary",
    "take_turns",
]
