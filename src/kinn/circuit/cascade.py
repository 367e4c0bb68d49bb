"""Stages in series: differential equation, transfer function, order, responses, exact steps (Eqs. 3, 4, 13-16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from kinn.circuit.bank import Bank
from kinn.circuit.linear import checked_times, potentials_before, propagator, real_array, step_lengths, zeros_of
from kinn.circuit.node import RCNode

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Cascade:
    """Stages in series, each driven by the (buffered) output of the one before it, Eqs. (3), (13)-(16).

    A stage is a node, `dv_i/dt = -a_i v_i + b_i y_{i-1}`, `y_i = c_i v_i + d_i y_{i-1}`, or a bank of them; `y_0 = x`,
    `i = 1..K`. The output is `y_K`, or `y_1 + ... + y_K` of a dense cascade, Eq. (4).

    Args:
        stages: from first to last, at least one.
        dense: add up the outputs of all stages.

    Raises:
        ValueError: no stage.

    >>> pair = Cascade([RCNode.from_rates(2.0, 1.0), RCNode.from_rates(8.0, 4.0)])
    >>> pair.degree(), pair.dc_gain
    (2, 0.25)
    >>> print(pair.denominator)  # s^2 + 10 s + 16
    [ 1. 10. 16.]
    """

    stages: Sequence[RCNode | Bank]
    dense: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("expected a cascade of at least one node, got none")

    def __len__(self) -> int:
        return len(self.stages)

    @property
    def banks(self) -> list[Bank]:
        """The stages, every one as a bank."""
        return [stage if isinstance(stage, Bank) else Bank([stage]) for stage in self.stages]

    @property
    def nodes(self) -> tuple[RCNode, ...]:
        """The nodes of all stages, in the order of the potentials."""
        return tuple(node for bank in self.banks for node in bank.nodes)

    def state_space(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """`(A, B, C, D)` of `dv/dt = A v + B x`, `y = C v + D x`; A is square, of all nodes, and lower-triangular."""
        size, first = len(self.nodes), 0
        A, B = np.zeros((size, size)), np.zeros(size)
        C, D = np.zeros(size), 1.0  # readout of the stage so far
        total_C, total_D = np.zeros(size), 0.0
        for bank in self.banks:
            rows = slice(first, first := first + len(bank.nodes))
            a, b, c = (np.array([getattr(node, name) for node in bank.nodes]) for name in "abc")
            A[rows], B[rows] = np.outer(b, C), b * D
            A[rows, rows] = np.diag(-a)
            C, D = bank.feedthrough * C, bank.feedthrough * D
            C[rows] = c
            total_C, total_D = total_C + C, total_D + D
        return (A, B, total_C, total_D) if self.dense else (A, B, C, D)

    @property
    def poles(self) -> Float[np.ndarray, " k"]:
        """`-a_i` in 1/s, node by node: real and negative, so the cascade is stable."""
        return np.array([-node.a for node in self.nodes])

    @property
    def zeros(self) -> np.ndarray:
        """Finite zeros in 1/s, stage by stage: `-(a_i + b_i c_i/d_i)` of a node with `d_i != 0`.

        Those of banks and of a dense cascade may be complex, in conjugate pairs.
        """
        if self.dense:
            return zeros_of(*self.state_space())
        return np.concatenate([bank.zeros for bank in self.banks])

    @property
    def numerator(self) -> Float[np.ndarray, " k+1"]:
        """Right side of Eq. (16), of nodes `prod_i (d_i s + a_i d_i + b_i c_i)`: coefficients, highest power first."""
        product, total = np.ones(1), np.zeros(1)
        for bank in self.banks:
            numerator, denominator = bank.polynomials()
            product, total = np.convolve(product, numerator), np.convolve(total, denominator)
            total = total + product
        return total if self.dense else product

    @property
    def denominator(self) -> Float[np.ndarray, " k+1"]:
        """Coefficients of `prod_i (s + a_i)`, left side of Eq. (16), highest power of s first."""
        return reduce(np.convolve, [[1.0, node.a] for node in self.nodes], np.ones(1))

    @property
    def feedthrough(self) -> float:
        """What of the drive passes at once, of nodes `d_1 ... d_K`; the weight of the impulse response's delta."""
        return float(self._chained([bank.feedthrough for bank in self.banks]))

    @property
    def dc_gain(self) -> float:
        """`H(0)`: output per unit of constant drive once all has settled."""
        return float(self._chained([bank.dc_gain for bank in self.banks]))

    def _chained(self, gains: Sequence[float] | Sequence[np.ndarray]) -> np.ndarray:
        """The gain of all from those of the stages."""
        partial = np.cumprod(np.array(gains), axis=0)
        return partial.sum(axis=0) if self.dense else partial[-1]

    def reduced(self, tolerance: float = 1e-9) -> tuple[np.ndarray, np.ndarray]:
        """`(zeros, poles)` that remain after each zero has cancelled at most one pole, sorted, complex zeros last.

        Args:
            tolerance: a zero and a pole cancel if they differ by at most this part of the larger of the two.
        """
        # of each factor: their product may underflow
        factors = [self.numerator] if self.dense else [bank.polynomials()[0] for bank in self.banks]
        if not all(factor.any() for factor in factors):
            return np.empty(0), np.empty(0)  # no output: H = 0
        found = self.zeros
        real = np.isreal(found)
        zeros, poles = sorted(np.real(found[real])), sorted(self.poles)
        kept_zeros, kept_poles = [], []
        # On the line, walking both in order finds the largest possible matching.
        while zeros and poles:
            if abs(zeros[-1] - poles[-1]) <= tolerance * max(abs(zeros[-1]), abs(poles[-1])):
                zeros.pop()
                poles.pop()
            elif zeros[-1] > poles[-1]:
                kept_zeros.append(zeros.pop())
            else:
                kept_poles.append(poles.pop())
        return np.array([*zeros, *kept_zeros[::-1], *found[~real]]), np.array(poles + kept_poles[::-1])

    def degree(self, tolerance: float = 1e-9) -> int:
        """Order between drive and output: the poles that no zero cancels, one for each node in the generic case.

        A stage with `b c = 0` is a plain gain and adds nothing; the potentials behind a cancelled pole still exist,
        but the drive does not reach them or the output does not show them.

        >>> first = RCNode.from_rates(2.0, 1.0)
        >>> Cascade([first, RCNode.from_rates(3.0, 1.0, c=-1.0, d=1.0)]).degree()  # its zero at -2 meets the pole
        1
        """
        return len(self.reduced(tolerance)[1])

    def transfer_function(self, s: ArrayLike) -> Complex[np.ndarray, "..."]:
        """`H(s)` at complex frequencies `s` in 1/s, of nodes `prod_i (d_i s + a_i d_i + b_i c_i)/(s + a_i)`."""
        return self._chained([bank.transfer_function(s) for bank in self.banks])

    def frequency_response(self, omega: ArrayLike) -> Complex[np.ndarray, "..."]:
        """`H(i omega)` at angular frequencies in rad/s: gain `abs`, phase `np.angle`."""
        return self.transfer_function(1j * np.asarray(omega, dtype=float))

    def impulse_response(self, t: ArrayLike, *, derivative: int = 0) -> Float[np.ndarray, "..."]:
        """Smooth part `C exp(A t) B` of the response to a unit impulse, in 1/s; `feedthrough` weighs the delta at 0.

        Args:
            t: times in s after the impulse, any shape, not negative.
            derivative: how often to differentiate in time.
        """
        A, B, C, _ = self.state_space()
        return propagator(A, checked_times(t)) @ B @ (C @ np.linalg.matrix_power(A, derivative))

    def step_response(self, t: ArrayLike) -> Float[np.ndarray, "..."]:
        """Output at times `t` (s, any shape) after a drive that jumps from 0 to 1 at 0 and stays.

        >>> Cascade([RCNode(capacitance=1.0, leak=0.5, coupling=0.5)]).step_response([0.0, np.log(2), 100.0])
        array([0.  , 0.25, 0.5 ])
        """
        generator, C, D = self._driven()
        return propagator(generator, checked_times(t))[..., 1:, 0] @ C + D

    def simulate(
        self, x: Float[np.ndarray, "*batch l"], dt: ArrayLike, *, initial_potentials: ArrayLike = 0.0
    ) -> tuple[Float[np.ndarray, "*batch l"], Float[np.ndarray, "*batch l k"]]:
        """What the circuit does: exact at the end of every step, whatever its length.

        Inside a step every stage follows the stage before it continuously, so all potentials advance together by one
        matrix exponential. :meth:`simulate_cells` is the network's way.

        Args:
            x: drive, time on the last axis, constant over each step.
            dt: length of the steps in s, one number or one per step `(l,)`, not negative.
            initial_potentials: v before the first step, `(*batch, k)`, `(k,)` or a number.

        Returns:
            `(y, v)`: outputs and all potentials at the end of every step.

        Raises:
            ValueError: times or potentials of another shape, or times that are negative or not finite.
            TypeError: complex numbers.
        """
        x = real_array(x, "the drive")
        generator, C, D = self._driven()
        lengths, which = np.unique(step_lengths(dt, x), return_inverse=True)
        moves = propagator(generator, lengths)[which]
        potentials = np.empty((*x.shape, len(self.nodes)))
        v = potentials_before(initial_potentials, x, len(self.nodes))
        for t, move in enumerate(moves):
            potentials[..., t, :] = v = v @ move[1:, 1:].T + x[..., t, None] * move[1:, 0]
        return potentials @ C + D * x, potentials

    def simulate_cells(
        self, x: Float[np.ndarray, "*batch l"], dt: ArrayLike, *, initial_potentials: ArrayLike = 0.0
    ) -> tuple[Float[np.ndarray, "*batch l"], Float[np.ndarray, "*batch l k"]]:
        """What the network's layers do: every stage holds its driver's sample from the end of a step over that step.

        Equal to :meth:`simulate` for one stage. For more, a driver's output moves within the step, and the two differ
        by a term of first order in `dt`. Arguments and results as there.
        """
        y = real_array(x, "the drive")
        initial, first = potentials_before(initial_potentials, y, len(self.nodes)), 0
        total, potentials = np.zeros_like(y), np.empty((*y.shape, len(self.nodes)))
        for bank in self.banks:
            rows = slice(first, first := first + len(bank.nodes))
            y, potentials[..., rows] = bank.simulate(y, dt, initial_potentials=initial[..., rows])
            total = total + y
        return total if self.dense else y, potentials

    def step(self, x: ArrayLike, v: ArrayLike, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """`(y, v)` after one step of :meth:`simulate`: drive `x` `(*batch,)`, potentials `v` `(*batch, k)`."""
        y, v = self.simulate(np.asarray(x)[..., None], dt, initial_potentials=v)
        return y[..., -1], v[..., -1, :]

    def step_cells(self, x: ArrayLike, v: ArrayLike, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """`(y, v)` after one step of :meth:`simulate_cells`, arguments as in :meth:`step`."""
        y, v = self.simulate_cells(np.asarray(x)[..., None], dt, initial_potentials=v)
        return y[..., -1], v[..., -1, :]

    def _driven(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Generator of (x, v) with x constant, lower-triangular, and the readout."""
        A, B, C, D = self.state_space()
        generator = np.zeros((len(A) + 1, len(A) + 1))
        generator[1:, 0], generator[1:, 1:] = B, A
        return generator, C, D

    def __str__(self) -> str:
        """A table of the nodes, with a line for a bank's direct path, then the cascade as a whole.

        >>> node = RCNode(1e-6, 1e-3, 1e-3)
        >>> print(Cascade([Bank([node, RCNode(1e-6, 3e-3, 1e-3)], d=1.0), node]))
        stage     C [F]   g_l [S]   g_c [S]   tau [s]   a [1/s]       b/a         c         d
            1     1e-06     0.001     0.001    0.0005      2000       0.5         1         0
            1     1e-06     0.003     0.001   0.00025      4000      0.25         1         0
            1                                                                               1
            2     1e-06     0.001     0.001    0.0005      2000       0.5         1         0
        order 3 of 3, DC gain 0.875, poles -4000, -2000, -2000, zeros -5414, -2586
        """
        heads = ("C [F]", "g_l [S]", "g_c [S]", "tau [s]", "a [1/s]", "b/a", "c", "d")
        lines = ["stage" + "".join(f"{head:>10}" for head in heads)]
        for i, bank in enumerate(self.banks, start=1):
            for n in bank.nodes:
                row = (n.capacitance, n.leak, n.coupling, n.time_constant, n.a, n.dc_gain, n.c, n.d)
                lines.append(f"{i:>5}" + "".join(f"{value:>10.4g}" for value in row))
            if bank.d:
                lines.append(f"{i:>5}{bank.d:>80.4g}")
        zeros, poles = (
            ", ".join(f"{root if root.imag else root.real:.4g}" for root in roots) or "none" for roots in self.reduced()
        )
        order = f"order {self.degree()} of {len(self.nodes)}{', outputs of all stages added' if self.dense else ''}"
        lines.append(f"{order}, DC gain {self.dc_gain:.4g}, poles {poles}, zeros {zeros}")
        return "\n".join(lines)
