"""The vector arithmetic under the kernels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from kinn.ops import _cpu_kernels, _vector


def test_the_kernels_name_the_vector_code_that_they_inline():
    """Numba's cache sees only the kernels' file: when this fails, copy the digest into it."""
    digest = hashlib.sha256(Path(_vector.__file__).read_bytes()).hexdigest()
    assert digest.startswith(_cpu_kernels.VECTOR_SHA256)


@njit
def both(exponent, e, slope):
    for i in range(0, exponent.size, _vector.LANES):
        left, right = _vector.expm1_and_slope(_vector.load(exponent, i))
        _vector.store(e, i, left)
        _vector.store(slope, i, right)


@njit
def alone(exponent, e):
    for i in range(0, exponent.size, _vector.LANES):
        _vector.store(e, i, _vector.expm1_of_log2(_vector.load(exponent, i)))


@njit
def sums(rows, out):
    _vector.store(out, 0, _vector.sum_each(rows, 0))


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
    exponent = np.zeros(_vector.LANES, dtype)
    exponent[:5] = [0.0, -np.inf, np.nan, -1e6, -np.finfo(dtype).tiny]
    e, slope = np.empty_like(exponent), np.empty_like(exponent)
    both(exponent, e, slope)
    np.testing.assert_array_equal(e[:4], np.array([0.0, -1.0, np.nan, -1.0], dtype))
    np.testing.assert_array_equal(slope[:4], np.array([0.0, -1.0, np.nan, -1.0], dtype))
    assert e[4] < 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_each(dtype):
    rows = np.random.default_rng(0).integers(-50, 50, (_vector.LANES, _vector.LANES)).astype(dtype)
    out = np.empty(_vector.LANES, dtype)
    sums(rows.ravel(), out)
    np.testing.assert_array_equal(out, rows.sum(1))
