"""How many bytes and operations a selective scan needs, whoever computes it."""

from __future__ import annotations

# Per potential and step, each addition and each multiplication counted once. An exponential is 14: the reduction of its
# argument (4), a polynomial of degree five in Horner's form (10).
EXPONENTIAL = 14
# z = dt a; u = B x; v = u / a - h; h - E v; y + C h
FORWARD = 1 + EXPONENTIAL + 1 + 2 + 2 + 2
# The forward again without y, and: adjoint + C dy; E adjoint; their sum; a h; u - a h; the gradients of dt (2), x (3),
# a (4), B (2) and C (2), with their sums.
BACKWARD = FORWARD - 2 + 2 + 1 + 1 + 1 + 1 + 2 + 3 + 4 + 2 + 2


def scan_cost(b: int, l: int, d: int, n: int, *, backward: bool, size: int = 4) -> tuple[float, float]:  # noqa: E741
    """Bytes and operations of a scan of `b` sequences of `l` steps, `d` channels and `n` potentials.

    Every argument and result is moved once, as if nothing had to be kept in between; operations that are not done for
    every potential are left out.

    Args:
        b: sequences.
        l: steps.
        d: channels.
        n: potentials per channel.
        backward: of forward and backward together, instead of the forward alone.
        size: bytes of a number.

    >>> scan_cost(1, 10, 4, 2, backward=False)
    (640.0, 1760.0)
    """
    wide, narrow = b * l * d, b * l * n
    moved = 3 * wide + 2 * narrow  # x, dt, y, B, C
    done = FORWARD
    if backward:
        moved += 5 * wide + 4 * narrow  # x, dt, dy, dx, ddt; B, C, dB, dC
        done += BACKWARD
    return float(size * moved), float(done * wide * n)
