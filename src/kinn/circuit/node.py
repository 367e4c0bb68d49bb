"""One RC node: parts, rates, exact steps (Eqs. 1, 2, 6-12)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kinn.circuit.linear import potentials_before, real_array, step_lengths

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class RCNode:
    """A node with capacitance `C`, a leak `g_l` to ground and a coupling `g_c` to its driver, Eqs. (1), (6)-(12).

    `C dv/dt + g_l v + g_c (v - x) = 0`, that is `dv/dt = -a v + b x` with `a = (g_l + g_c)/C` and `b = g_c/C`; the
    readout is `y = c v + d x`.

    Args:
        capacitance: C in F, positive.
        leak: conductance g_l to ground in S, positive.
        coupling: conductance g_c to the driver in S, not negative.
        c: readout of the potential, without unit.
        d: readout of the drive itself (feedthrough), without unit.

    Raises:
        ValueError: if a value is not finite or outside these ranges.

    >>> node = RCNode(capacitance=2e-6, leak=1e-3, coupling=3e-3)
    >>> node.time_constant, node.dc_gain
    (0.0005, 0.75)
    """

    capacitance: float
    leak: float
    coupling: float
    c: float = 1.0
    d: float = 0.0

    def __post_init__(self) -> None:
        for name in ("capacitance", "leak", "coupling", "c", "d"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ValueError(f"expected a finite {name}, got {value}")
            object.__setattr__(self, name, float(value))
        if self.capacitance <= 0:
            raise ValueError(f"expected a capacitance C > 0, got {self.capacitance}")
        if self.leak <= 0:
            raise ValueError(f"expected a leak conductance g_l > 0, got {self.leak}")
        if self.coupling < 0:
            raise ValueError(f"expected a coupling conductance g_c >= 0, got {self.coupling}")
        if not (math.isfinite(self.a) and self.a > 0):
            raise ValueError(f"expected a decay rate (g_l + g_c)/C within floating point's range, got {self.a}")

    @classmethod
    def from_rates(cls, a: float, b: float, c: float = 1.0, d: float = 0.0, *, capacitance: float = 1.0) -> RCNode:
        """The node that maps `x` to `y` as `dv/dt = -a v + b x`, `y = c v + d x` does.

        Only `0 <= b < a` is a pair of conductances. Any other `b` moves into the readout: the node gets `b' = a/2` and
        `c' = c b/b'`, its potential is `v b'/b`, and `y` is the same.

        Args:
            a: decay rate in 1/s, positive.
            b: injection rate in 1/s, any sign.
            c: readout of the potential.
            d: readout of the drive.
            capacitance: C in F; scales both conductances and nothing else.

        >>> RCNode.from_rates(4.0, 1.0, capacitance=0.5)
        RCNode(capacitance=0.5, leak=1.5, coupling=0.5, c=1.0, d=0.0)
        >>> RCNode.from_rates(4.0, -6.0)
        RCNode(capacitance=1.0, leak=2.0, coupling=2.0, c=-3.0, d=0.0)
        """
        if not (math.isfinite(a) and a > 0):
            raise ValueError(f"expected a finite decay rate a > 0, got {a}")
        if not math.isfinite(b):
            raise ValueError(f"expected a finite injection rate b, got {b}")
        if not 0 <= b < a:
            b, c = a / 2, c * (b / (a / 2))
        return cls(capacitance, capacitance * (a - b), capacitance * b, c, d)

    @property
    def a(self) -> float:
        """Decay rate `(g_l + g_c)/C` in 1/s, positive, Eq. (9)."""
        return (self.leak + self.coupling) / self.capacitance

    @property
    def b(self) -> float:
        """Injection rate `g_c/C` in 1/s, Eq. (9)."""
        return self.coupling / self.capacitance

    @property
    def time_constant(self) -> float:
        """`1/a` in s: a potential left alone falls to 37 % in this time."""
        return self.capacitance / (self.leak + self.coupling)

    @property
    def dc_gain(self) -> float:
        """Potential per unit of constant drive, `b/a = g_c/(g_l + g_c)`, below 1: the bound of `|v|` per `max |x|`."""
        return self.coupling / (self.leak + self.coupling)

    def step(self, x: ArrayLike, v: ArrayLike, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """`(y, v)` after `dt` seconds of constant drive `x` from potential `v`: exact, Eqs. (2), (10), (11).

        >>> y, v = RCNode(1.0, 0.5, 0.5).step(1.0, 0.0, math.log(2))
        >>> float(v)
        0.25
        """
        y, v = self.simulate(np.asarray(x)[..., None], dt, initial_potential=v)
        return y[..., -1], v[..., -1]

    def simulate(
        self, x: Float[np.ndarray, "*batch l"], dt: ArrayLike, *, initial_potential: ArrayLike = 0.0
    ) -> tuple[Float[np.ndarray, "*batch l"], Float[np.ndarray, "*batch l"]]:
        """Outputs and potentials at the end of every step, under a drive that is constant over each step.

        Args:
            x: drive, time on the last axis.
            dt: length of the steps in s, one number or one per step `(l,)`, not negative.
            initial_potential: v before the first step, `(*batch,)` or a number.

        Returns:
            `(y, v)`, both of the shape of `x`.

        Raises:
            ValueError: times or potentials of another shape, or times that are negative or not finite.
            TypeError: complex numbers.
        """
        x = real_array(x, "the drive")
        z = self.a * step_lengths(dt, x)
        retain, inject = np.exp(-z), -np.expm1(-z) * self.dc_gain
        v, potentials = potentials_before(initial_potential, x), np.empty_like(x)
        for t in range(x.shape[-1]):
            potentials[..., t] = v = retain[t] * v + inject[t] * x[..., t]
        return self.c * potentials + self.d * x, potentials

    def __str__(self) -> str:
        from kinn.circuit.cascade import Cascade  # which is made of nodes

        return str(Cascade([self]))
