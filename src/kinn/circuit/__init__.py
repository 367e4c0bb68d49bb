"""RC nodes, banks and cascades in continuous time: exact steps, transfer function, order, responses (Eqs. 1-4, 6-16).

Everything is NumPy in float64 and in closed form. Units are SI (farad, siemens, second); potentials and drives share
one unit, volt. Any other consistent set does as well: only ratios enter the dynamics.
"""

from kinn.circuit.bank import Bank
from kinn.circuit.cascade import Cascade
from kinn.circuit.node import RCNode

__all__ = ["Bank", "Cascade", "RCNode"]
