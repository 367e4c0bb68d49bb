"""The vector arithmetic under the kernels."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from kinn.ops.cpu import _functions, _vector, records

LANES = records.TILE


@njit
def both(exponent, e, slope):
    like = _vector.zeros(exponent, LANES)
    for i in range(0, exponent.size, LANES):
        left, right = _functions.expm1_and_slope(_vector.load(exponent, i, like))
        _vector.store(e, i, left)
        _vector.store(slope, i, right)


@njit
def alone(exponent, e):
    like = _vector.zeros(exponent, LANES)
    for i in range(0, exponent.size, LANES):
        _vector.store(e, i, _functions.expm1_of_log2(_vector.load(exponent, i, like)))


@njit
def sums(rows, out):
    _vector.store(out, 0, _vector.sum_each(rows, 0, _vector.zeros(rows, LANES)))


@njit
def folded(values, out):
    _vector.add_folded(out, 0, _vector.load(values, 0, _vector.zeros(values, 32)), LANES)
    _vector.add_folded(out, 1, _vector.load(values, 0, _vector.zeros(values, 8)), LANES)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2.5e-7), (np.float64, 5e-16)])
def test_exponential(dtype, tolerance):
    z = np.concatenate([np.logspace(-12, np.log10(80), 4000), np.linspace(0.3, 0.4, 96)])
    exponent = (-z / np.log(2)).astype(dtype)
    z = -exponent.astype(np.longdouble) * np.log(np.longdouble(2))
    e, slope, again = np.empty_like(exponent), np.empty_like(exponent), np.empty_like(exponent)
    both(exponent, e, slope)
    alone(exponent, again)
    exact = np.expm1(-z)
    series = sum((-z) ** k * (1 - k) / float(np.prod(np.arange(1.0, k + 1))) for k in range(2, 16))
    exact_slope = np.where(z < 0.2, series, exact + z * np.exp(-z))
    assert np.abs(e / exact - 1).max() < tolerance
    assert np.abs(again / exact - 1).max() < tolerance
    assert np.abs(slope / exact_slope - 1).max() < 20 * tolerance


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_at_the_ends(dtype):
    exponent = np.zeros(LANES, dtype)
    exponent[:5] = [0.0, -np.inf, np.nan, -1e6, -np.finfo(dtype).tiny]
    e, slope = np.empty_like(exponent), np.empty_like(exponent)
    both(exponent, e, slope)
    np.testing.assert_array_equal(e[:4], np.array([0.0, -1.0, np.nan, -1.0], dtype))
    np.testing.assert_array_equal(slope[:4], np.array([0.0, -1.0, np.nan, -1.0], dtype))
    assert e[4] < 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_each(dtype):
    rows = np.random.default_rng(0).integers(-50, 50, (LANES, LANES)).astype(dtype)
    out = np.empty(LANES, dtype)
    sums(rows.ravel(), out)
    np.testing.assert_array_equal(out, rows.sum(1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_folded(dtype):
    """Wide vectors are folded to the width of the sums, narrow ones touch only their own lanes."""
    values = np.random.default_rng(0).integers(-50, 50, 32).astype(dtype)
    out = np.ones(LANES + 2, dtype)
    folded(values, out)
    expected = np.ones(LANES + 2, dtype)
    expected[:LANES] += values[:16] + values[16:]
    expected[1:9] += values[:8]
    np.testing.assert_array_equal(out, expected)
