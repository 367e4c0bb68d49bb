from __future__ import annotations

import pytest

from kinn.nn import Route, routes_for


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_full_set_is_every_axis_both_ways(n_axes: int) -> None:
    routes = routes_for(n_axes, 2 * n_axes)
    assert set(routes) == {Route(axis, reverse) for axis in range(n_axes) for reverse in (False, True)}
    assert routes_for(n_axes, n_axes) == routes[:n_axes]
    assert routes_for(n_axes, 1) == routes[:1] == (Route(n_axes - 1),)


def test_sizes_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="a 1-D grid takes 1, 2 routes, got 4"):
        routes_for(1, 4)
    with pytest.raises(ValueError, match="a 3-D grid takes 1, 3, 6 routes, got 4"):
        routes_for(3, 4)
    with pytest.raises(ValueError, match="a grid has 1, 2 or 3 axes, got 4"):
        routes_for(4, 1)
