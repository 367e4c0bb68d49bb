"""Kirchhoff-Inspired Neural Networks: sequence and field models whose layers are RC circuits."""

from kinn._version import __version__

__all__ = ["__version__"]
