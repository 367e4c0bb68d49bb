"""RC nodes in parallel: a cell with several potentials (Eqs. 17, 20)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kinn.circuit.linear import potentials_before, real_array, zeros_of
from kinn.circuit.node import RCNode

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Bank:
    """Nodes with one driver, whose outputs add up, beside a direct path: `y = sum_n (c_n v_n + d_n x) + d x`.

    The responses are those of `Cascade([bank])`.

    Args:
        nodes: the N nodes, at least one.
        d: readout of the drive itself, beside those of the nodes.

    Raises:
        ValueError: no node, or `d` that is not finite.

    >>> bank = Bank([RCNode.from_rates(1.0, 0.5), RCNode.from_rates(4.0, 1.0)], d=1.0)  # 1 + 0.5/(s+1) + 1/(s+4)
    >>> bank.dc_gain, bank.zeros.round(6).tolist()
    (1.75, [-1.362541, -5.137459])
    """

    nodes: Sequence[RCNode]
    d: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "d", float(self.d))
        if not self.nodes:
            raise ValueError("expected a bank of at least one node, got none")
        if not math.isfinite(self.d):
            raise ValueError(f"expected a finite d, got {self.d}")

    @property
    def feedthrough(self) -> float:
        """What of the drive passes at once, `d + d_1 + ... + d_N`."""
        return self.d + sum(node.d for node in self.nodes)

    @property
    def dc_gain(self) -> float:
        """`H(0)`: output per unit of constant drive once all has settled."""
        return self.feedthrough + sum(node.c * node.dc_gain for node in self.nodes)

    @property
    def zeros(self) -> np.ndarray:
        """Zeros of the transfer function in 1/s, `N` of them if anything passes at once; real or in conjugate pairs."""
        a, b, c = (np.array([getattr(node, name) for node in self.nodes]) for name in "abc")
        return zeros_of(np.diag(-a), b, c, self.feedthrough)

    def polynomials(self) -> tuple[np.ndarray, np.ndarray]:
        """`(numerator, denominator)` of the transfer function, `n + 1` coefficients, highest power of s first."""
        numerator, denominator = np.array([self.feedthrough]), np.ones(1)
        for node in self.nodes:
            factor = [1.0, node.a]
            numerator = np.convolve(numerator, factor)
            numerator[1:] += node.b * node.c * denominator
            denominator = np.convolve(denominator, factor)
        return numerator, denominator

    def transfer_function(self, s: ArrayLike) -> Complex[np.ndarray, "..."]:
        """`H(s) = d + sum_n (d_n + b_n c_n / (s + a_n))` at complex frequencies `s` in 1/s."""
        s = np.asarray(s, dtype=complex)
        return sum((node.c * node.b / (s + node.a) for node in self.nodes), np.full(s.shape, self.feedthrough, complex))

    def simulate(
        self, x: Float[np.ndarray, "*batch l"], dt: ArrayLike, *, initial_potentials: ArrayLike = 0.0
    ) -> tuple[Float[np.ndarray, "*batch l"], Float[np.ndarray, "*batch l n"]]:
        """Exact outputs and potentials at the end of every step of a drive that is constant over each step.

        Args:
            x: drive, time on the last axis.
            dt: length of the steps in s, one number or one per step `(l,)`, not negative.
            initial_potentials: v before the first step, `(*batch, n)`, `(n,)` or a number.

        Returns:
            `(y, v)`.

        Raises:
            ValueError: times or potentials of another shape, or times that are negative or not finite.
            TypeError: complex numbers.
        """
        x = real_array(x, "the drive")
        y, potentials = self.d * x, np.empty((*x.shape, len(self.nodes)))
        initial = potentials_before(initial_potentials, x, len(self.nodes))
        for n, node in enumerate(self.nodes):
            output, potentials[..., n] = node.simulate(x, dt, initial_potential=initial[..., n])
            y = y + output
        return y, potentials
