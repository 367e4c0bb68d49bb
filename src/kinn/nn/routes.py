"""Routes: the directions in which a grid is scanned."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Route", "routes_for"]


class Route(NamedTuple):
    """One scan direction.

    Attributes:
        axis: grid axis that the scan runs along (fastest), 0 being the first one after the batch.
        reverse: run from the last position to the first.
    """

    axis: int
    reverse: bool = False


def routes_for(n_axes: int, n_routes: int) -> tuple[Route, ...]:
    """The standard set of `n_routes` routes over a grid of `n_axes` axes (mathematics of the block, section 4).

    One route runs forward along the last axis (the rows of an image). `n_axes` routes run forward along every axis, the
    last one first. `2 n_axes` routes run along every axis forward, then along every axis in reverse. That leaves 1
    and 2 routes on a line, 1, 2 and 4 on a plane, 1, 3 and 6 in space: sets that favour no axis, but for the single
    route.

    Raises:
        ValueError: no standard set of this size; the message lists the sizes there are.

    >>> routes_for(2, 2)
    (Route(axis=1, reverse=False), Route(axis=0, reverse=False))
    """
    if n_axes not in (1, 2, 3):
        raise ValueError(f"routes_for: a grid has 1, 2 or 3 axes, got {n_axes}")
    sizes = sorted({1, n_axes, 2 * n_axes})
    if n_routes not in sizes:
        raise ValueError(f"routes_for: a {n_axes}-D grid takes {', '.join(map(str, sizes))} routes, got {n_routes}")
    forward = tuple(Route(axis) for axis in reversed(range(n_axes)))
    reverse = tuple(Route(route.axis, reverse=True) for route in forward)
    return (forward + reverse)[:n_routes]
