"""RC nodes and their cascades in continuous time: exact steps, transfer function, order, responses (Eqs. 1-3, 6-16).

Everything is NumPy in float64 and in closed form. Units are SI (farad, siemens, second); potentials and drives share
one unit, volt. Any other consistent set does as well: only ratios enter the dynamics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
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
        y, v = self.simulate(np.asarray(x, dtype=float)[..., None], dt, initial_potential=v)
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
        """
        x = np.asarray(x, dtype=float)
        z = self.a * _steps(dt, x)
        retain, inject = np.exp(-z), -np.expm1(-z) * self.dc_gain
        v, potentials = np.asarray(initial_potential, dtype=float), np.empty_like(x)
        for t in range(x.shape[-1]):
            potentials[..., t] = v = retain[t] * v + inject[t] * x[..., t]
        return self.c * potentials + self.d * x, potentials

    def __str__(self) -> str:
        return str(Cascade([self]))


@dataclass(frozen=True)
class Cascade:
    """Nodes in series, each driven by the (buffered) output of the one before it, Eqs. (3), (13)-(16).

    `dv_i/dt = -a_i v_i + b_i y_{i-1}`, `y_i = c_i v_i + d_i y_{i-1}`, `y_0 = x`, `i = 1..K`.

    Args:
        nodes: the K nodes from first to last, at least one.

    >>> pair = Cascade([RCNode.from_rates(2.0, 1.0), RCNode.from_rates(8.0, 4.0)])
    >>> pair.degree(), pair.dc_gain
    (2, 0.25)
    >>> print(pair.denominator)  # s^2 + 10 s + 16
    [ 1. 10. 16.]
    """

    nodes: Sequence[RCNode]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise ValueError("expected a cascade of at least one node, got none")

    def __len__(self) -> int:
        return len(self.nodes)

    def state_space(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """`(A, B, C, D)` of `dv/dt = A v + B x`, `y = C v + D x`; A is `(K, K)` and lower-triangular."""
        size = len(self)
        A, B = np.zeros((size, size)), np.zeros(size)
        C, D = np.zeros(size), 1.0  # readout of the stage so far
        for i, node in enumerate(self.nodes):
            A[i], B[i] = node.b * C, node.b * D
            A[i, i] = -node.a
            C, D = node.d * C, node.d * D
            C[i] = node.c
        return A, B, C, D

    @property
    def poles(self) -> Float[np.ndarray, " k"]:
        """`-a_i` in 1/s, stage by stage: real and negative, so the cascade is stable."""
        return np.array([-node.a for node in self.nodes])

    @property
    def zeros(self) -> Float[np.ndarray, " zeros"]:
        """`-(a_i + b_i c_i/d_i)` in 1/s of the stages with `d_i != 0`; the others have no finite zero."""
        zeros = (-(n.a + n.b * n.c / n.d) for n in self.nodes if n.d != 0)
        return np.array([zero for zero in zeros if math.isfinite(zero)])

    @property
    def numerator(self) -> Float[np.ndarray, " k+1"]:
        """Coefficients of `prod_i (d_i s + a_i d_i + b_i c_i)`, right side of Eq. (16), highest power of s first."""
        return reduce(np.convolve, [[node.d, node.a * node.d + node.b * node.c] for node in self.nodes], np.ones(1))

    @property
    def denominator(self) -> Float[np.ndarray, " k+1"]:
        """Coefficients of `prod_i (s + a_i)`, left side of Eq. (16), highest power of s first."""
        return reduce(np.convolve, [[1.0, node.a] for node in self.nodes], np.ones(1))

    @property
    def feedthrough(self) -> float:
        """`d_1 ... d_K`: what of the drive passes at once, and the weight of the impulse response's delta."""
        return math.prod(node.d for node in self.nodes)

    @property
    def dc_gain(self) -> float:
        """`H(0)`: output per unit of constant drive once all has settled."""
        return math.prod(node.d + node.c * node.dc_gain for node in self.nodes)

    def reduced(self, tolerance: float = 1e-9) -> tuple[np.ndarray, np.ndarray]:
        """`(zeros, poles)` that remain after each zero has cancelled at most one pole, sorted.

        Args:
            tolerance: a zero and a pole cancel if they differ by at most this part of the larger of the two.
        """
        if any(node.d == 0 and node.b * node.c == 0 for node in self.nodes):
            return np.empty(0), np.empty(0)  # a stage without output: H = 0
        zeros, poles = sorted(self.zeros), sorted(self.poles)
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
        return np.array(zeros + kept_zeros[::-1]), np.array(poles + kept_poles[::-1])

    def degree(self, tolerance: float = 1e-9) -> int:
        """Order of the cascade between drive and output: the poles that no zero cancels, K in the generic case.

        A stage with `b c = 0` is a plain gain and adds nothing; the potentials behind a cancelled pole still exist,
        but the drive does not reach them or the output does not show them.

        >>> first = RCNode.from_rates(2.0, 1.0)
        >>> Cascade([first, RCNode.from_rates(3.0, 1.0, c=-1.0, d=1.0)]).degree()  # its zero at -2 meets the pole
        1
        """
        return len(self.reduced(tolerance)[1])

    def transfer_function(self, s: ArrayLike) -> Complex[np.ndarray, "..."]:
        """`H(s) = prod_i (d_i s + a_i d_i + b_i c_i)/(s + a_i)` at complex frequencies `s` in 1/s."""
        s = np.asarray(s, dtype=complex)
        return np.prod([node.d + node.c * node.b / (s + node.a) for node in self.nodes], axis=0)

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
        return _propagator(A, _times(t)) @ B @ (C @ np.linalg.matrix_power(A, derivative))

    def step_response(self, t: ArrayLike) -> Float[np.ndarray, "..."]:
        """Output at times `t` (s, any shape) after a drive that jumps from 0 to 1 at 0 and stays.

        >>> Cascade([RCNode(capacitance=1.0, leak=0.5, coupling=0.5)]).step_response([0.0, math.log(2), 100.0])
        array([0.  , 0.25, 0.5 ])
        """
        generator, C, D = self._driven()
        return _propagator(generator, _times(t))[..., 1:, 0] @ C + D

    def simulate(
        self, x: Float[np.ndarray, "*batch l"], dt: ArrayLike, *, initial_potentials: ArrayLike = 0.0
    ) -> tuple[Float[np.ndarray, "*batch l"], Float[np.ndarray, "*batch l k"]]:
        """What the circuit does: exact at the end of every step, whatever its length.

        Inside a step every stage follows the stage before it continuously, so all K potentials advance together by
        one matrix exponential. :meth:`simulate_cells` is the network's way.

        Args:
            x: drive, time on the last axis, constant over each step.
            dt: length of the steps in s, one number or one per step `(l,)`, not negative.
            initial_potentials: v before the first step, `(*batch, k)`, `(k,)` or a number.

        Returns:
            `(y, v)`: outputs of the last stage and all potentials at the end of every step.
        """
        x = np.asarray(x, dtype=float)
        generator, C, D = self._driven()
        lengths, which = np.unique(_steps(dt, x), return_inverse=True)
        moves = _propagator(generator, lengths)[which]
        potentials = np.empty((*x.shape, len(self)))
        v = self._potentials(initial_potentials, x)
        for t, move in enumerate(moves):
            potentials[..., t, :] = v = v @ move[1:, 1:].T + x[..., t, None] * move[1:, 0]
        return potentials @ C + D * x, potentials

    def simulate_cells(
        self, x: Float[np.ndarray, "*batch l"], dt: ArrayLike, *, initial_potentials: ArrayLike = 0.0
    ) -> tuple[Float[np.ndarray, "*batch l"], Float[np.ndarray, "*batch l k"]]:
        """What the network's layers do: every node holds its driver's sample from the end of a step over that step.

        Equal to :meth:`simulate` for one node. For more, a driver's output moves within the step, and the two differ
        by a term of first order in `dt`. Arguments and results as there.
        """
        y = np.asarray(x, dtype=float)
        initial = self._potentials(initial_potentials, y)
        potentials = np.empty((*y.shape, len(self)))
        for i, node in enumerate(self.nodes):
            y, potentials[..., i] = node.simulate(y, dt, initial_potential=initial[..., i])
        return y, potentials

    def step(self, x: ArrayLike, v: ArrayLike, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """`(y, v)` after one step of :meth:`simulate`: drive `x` `(*batch,)`, potentials `v` `(*batch, k)`."""
        y, v = self.simulate(np.asarray(x, dtype=float)[..., None], dt, initial_potentials=v)
        return y[..., -1], v[..., -1, :]

    def step_cells(self, x: ArrayLike, v: ArrayLike, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """`(y, v)` after one step of :meth:`simulate_cells`, arguments as in :meth:`step`."""
        y, v = self.simulate_cells(np.asarray(x, dtype=float)[..., None], dt, initial_potentials=v)
        return y[..., -1], v[..., -1, :]

    def _driven(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Generator of (x, v) with x constant, lower-triangular, and the readout."""
        A, B, C, D = self.state_space()
        generator = np.zeros((len(self) + 1, len(self) + 1))
        generator[1:, 0], generator[1:, 1:] = B, A
        return generator, C, D

    def _potentials(self, initial: ArrayLike, x: np.ndarray) -> np.ndarray:
        initial, shape = np.asarray(initial, dtype=float), (*x.shape[:-1], len(self))
        if initial.shape not in ((), (len(self),), shape):
            raise ValueError(f"expected initial potentials of shape {shape}, got {initial.shape}")
        return np.broadcast_to(initial, shape)

    def __str__(self) -> str:
        """A table of the stages, then the cascade as a whole.

        >>> print(Cascade([RCNode(1e-6, 1e-3, 1e-3), RCNode(1e-6, 1e-3, 0.0, d=2.0)]))
        stage     C [F]   g_l [S]   g_c [S]   tau [s]   a [1/s]       b/a         c         d
            1     1e-06     0.001     0.001    0.0005      2000       0.5         1         0
            2     1e-06     0.001         0     0.001      1000         0         1         2
        order 1 of 2, DC gain 1, poles -2000, zeros none
        """
        heads = ("C [F]", "g_l [S]", "g_c [S]", "tau [s]", "a [1/s]", "b/a", "c", "d")
        lines = ["stage" + "".join(f"{head:>10}" for head in heads)]
        for i, n in enumerate(self.nodes, start=1):
            row = (n.capacitance, n.leak, n.coupling, n.time_constant, n.a, n.dc_gain, n.c, n.d)
            lines.append(f"{i:>5}" + "".join(f"{value:>10.4g}" for value in row))
        zeros, poles = (", ".join(f"{root:.4g}" for root in roots) or "none" for roots in self.reduced())
        lines.append(f"order {self.degree()} of {len(self)}, DC gain {self.dc_gain:.4g}, poles {poles}, zeros {zeros}")
        return "\n".join(lines)


def _times(t: ArrayLike) -> np.ndarray:
    t = np.asarray(t, dtype=float)
    wrong = ~(np.isfinite(t) & (t >= 0))
    if wrong.any():
        raise ValueError(f"expected finite times that are not negative, got {t[wrong].flat[0]}")
    return t


def _steps(dt: ArrayLike, x: np.ndarray) -> np.ndarray:
    """Step lengths `(l,)` for a drive `(*batch, l)`."""
    dt = _times(dt)
    if x.ndim == 0 or dt.shape not in ((), x.shape[-1:]):
        raise ValueError(f"expected a drive (*batch, l) and dt a number or (l,), got shapes {x.shape} and {dt.shape}")
    return np.broadcast_to(dt, x.shape[-1:])


def _propagator(generator: np.ndarray, t: np.ndarray) -> np.ndarray:
    """`exp(generator t)` of a lower-triangular matrix `(k, k)` for all times `(...)`: `(..., k, k)`.

    Scaling and squaring. The diagonal is set to its known value after every squaring (Al-Mohy and Higham, 2009):
    slow and fast stages in one cascade would lose digits otherwise.
    """
    diagonal = np.arange(len(generator))
    with np.errstate(over="ignore"):
        scaled = generator * t[..., None, None]
    norm = np.abs(scaled).sum(-1).max(initial=0.0)
    if not np.isfinite(norm):
        raise ValueError(f"rates times time exceed floating point's range: the largest time is {t.max()}")
    halvings = max(0, math.frexp(norm)[1] + 1)
    scaled = np.ldexp(scaled, -halvings)
    result = identity = np.eye(len(generator))
    for n in range(14, 0, -1):  # Taylor's series; 0.5**15 / 15! is below rounding
        result = identity + scaled @ result / n
    for halving in range(halvings + 1):
        result = result @ result if halving else result
        result[..., diagonal, diagonal] = np.exp(np.ldexp(scaled[..., diagonal, diagonal], halving))
    return result
