"""How the power of a field is spread over structures from large to small."""

from __future__ import annotations

import numpy as np


def power_spectrum(fields: np.ndarray, axes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Radially averaged power spectrum of fields on a unit cube.

    Args:
        fields: values `(..., *grid)`.
        axes: of the grid.

    Returns:
        Wavenumbers 1, 2, ... up to half the shortest side, `(k,)`, and for each the mean of `|FFT / points|^2` over the
        shell of modes whose modulus rounds to it, `(..., k)`.

    Example:
        >>> x = np.arange(16) / 16
        >>> k, power = power_spectrum(np.cos(2 * np.pi * 3 * x), axes=1)
        >>> k.size, int(k[power.argmax()]), float(power.max().round(6))
        (8, 3, 0.25)
    """
    batch, grid = fields.shape[:-axes], fields.shape[-axes:]
    modes = np.abs(np.fft.fftn(np.asarray(fields, dtype=float), axes=range(-axes, 0))) ** 2 / np.prod(grid) ** 2.0
    frequencies = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in grid), indexing="ij", sparse=True)
    shell = np.sqrt(sum(f**2 for f in frequencies)).round().astype(int).ravel()
    shown = slice(1, min(grid) // 2 + 1)
    totals = [np.bincount(shell, row)[shown] for row in modes.reshape(-1, shell.size)]
    means = np.stack(totals) / np.bincount(shell)[shown]
    return np.arange(1.0, shown.stop), means.reshape(*batch, shown.stop - 1)
