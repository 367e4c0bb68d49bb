from __future__ import annotations

import numpy as np
import pytest

from kinn.spectrum import power_spectrum


@pytest.mark.parametrize("shape", [(32, 32), (33, 24)])
def test_spectrum_of_a_wave_is_its_wavenumber(shape):
    x, y = (np.arange(n) / n for n in shape)
    k, power = power_spectrum(np.cos(2 * np.pi * 3 * x)[:, None] + 0 * y)
    assert k[power.argmax()] == 3
    assert np.delete(power, 2).max() < 1e-20
    ring = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")).round() == 3
    assert power[2] * ring.sum() == pytest.approx(0.5)  # mean square of a cosine


def test_spectra_of_many_fields_are_those_of_each():
    fields = np.random.default_rng(0).standard_normal((3, 2, 8, 12))
    k, powers = power_spectrum(fields)
    assert powers.shape == (3, 2, 4)
    np.testing.assert_allclose(powers[1, 1], power_spectrum(fields[1, 1])[1])
    assert power_spectrum(fields, axes=3)[1].shape == (3, 1)  # half the shortest side
    assert k.tolist() == [1, 2, 3, 4]
