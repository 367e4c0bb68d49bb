"""How many bytes and operations a selective scan needs, whoever computes it."""

from __future__ import annotations

# Per potential and step, each addition and each multiplication counted once. An exponential is 14: the reduction of its
# argument (4), a polynomial of degree five in Horner's form (10).
EXPONENTIAL = 14
FORWARD = {
    "zoh": 1 + EXPONENTIAL + 1 + 2 + 2 + 2,  # z = dt a; u = B x; v = u / a - h; h - E v; y + C h
    "euler": 1 + EXPONENTIAL + 1 + 2 + 2,  # z = dt a; u = B (dt x); E h + u; y + C h
}
# The forward again without y, and: adjoint + C dy; E adjoint; their sum; a h; u - a h; the gradients of dt (2), x (3),
# a (4), B (2) and C (2), with their sums. First order: adjoint + C dy (2); E adjoint; their product with h (2); the
# gradients of a, dt, B, dt x and C (2 each).
BACKWARD = {
    "zoh": FORWARD["zoh"] - 2 + 2 + 1 + 1 + 1 + 1 + 2 + 3 + 4 + 2 + 2,
    "euler": FORWARD["euler"] - 2 + 2 + 1 + 2 + 5 * 2,
}


def scan_cost(
    b: int,
    l: int,  # noqa: E741
    d: int,
    n: int,
    *,
    backward: bool,
    injection: str = "zoh",
    size: int = 4,
) -> tuple[float, float]:
    """Bytes and operations of a scan of `b` sequences of `l` steps, `d` channels and `n` potentials.

    Every argument and result is moved once, as if nothing had to be kept in between; operations that are not done for
    every potential are left out.

    Args:
        b: sequences.
        l: steps.
        d: channels.
        n: potentials per channel.
        backward: of forward and backward together, instead of the forward alone.
        injection: "zoh" or "euler", as in :func:`kinn.ops.selective_scan`.
        size: bytes of a number.

    >>> scan_cost(1, 10, 4, 2, backward=False)
    (640.0, 1760.0)
    """
    wide, narrow = b * l * d, b * l * n
    moved = 3 * wide + 2 * narrow  # x, dt, y, B, C
    done = FORWARD[injection]
    if backward:
        moved += 5 * wide + 4 * narrow  # x, dt, dy, dx, ddt; B, C, dB, dC
        done += BACKWARD[injection]
    return float(size * moved), float(done * wide * n)


def cascade_cost(
    b: int,
    l: int,  # noqa: E741
    d: int,
    n: int,
    cells: int,
    routes: int,
    rank: int,
    *,
    injection: str = "zoh",
) -> tuple[float, float]:
    """Bytes and operations of forward and backward of :func:`kinn.ops.cascade_scan`.

    The field is read and the output written once, the field, its gradient and that of the output once more; what cells
    form and hand on is not moved. Matrix products count three times, once forward and once for each of their factors'
    gradients; a softplus counts as two exponentials forward and one backward.

    Args:
        b: fields.
        l: positions of a field.
        d: channels.
        n: potentials per channel.
        cells: in a row, per route.
        routes: over the field.
        rank: of the steps' factor.
        injection: "zoh" or "euler".

    >>> cascade_cost(1, 10, 4, 2, 1, 1, 1, injection="euler")
    (800.0, 7360.0)
    """
    positions = b * l
    products = 3 * 2 * positions * d * (rank + 2 * n + rank)
    steps = 3 * EXPONENTIAL * positions * d
    _, scan = scan_cost(b, l, d, n, backward=True, injection=injection)
    return 4.0 * 5 * positions * d, float(routes * cells * (products + steps + scan))
