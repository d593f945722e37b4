"""N4 bias correction: estimate the slow shading of a scan by its coils, and divide by it (Tustison et al. 2010).

N4ITK: improved N3 bias correction, IEEE Transactions on Medical Imaging 29(6), 1310-1320; the implementation is
SimpleITK's. Training and prediction correct a scan alike: both call `without_bias`.
"""

import numpy as np

SAMPLES = 32
"""About this many points along each axis are enough for such a smooth field."""
ITERATIONS = (50, 50, 50)
"""Most iterations at each level of the field, from coarse to fine."""


def without_bias(volume: np.ndarray) -> np.ndarray:
    """Return the scan (X, Y, S), float32, divided by its bias field; an empty scan comes back unchanged.

    The field is estimated on averages of some voxels where the scan is brighter than its mean, and then evaluated at
    every voxel, limited to the range of the bright ones. It runs on one thread, so that the sums are the same every
    time; the cases run in parallel.
    """
    if not volume.size or volume.min() == volume.max():
        return volume
    import SimpleITK as sitk  # a third of a second to import, for this setting alone

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T, dtype=np.float32))
    small = sitk.BinShrink(image, [max(1, side // SAMPLES) for side in volume.shape])
    threshold = max(float(volume.mean()), 0.0)
    bright = small > threshold
    if not sitk.GetArrayViewFromImage(bright).any():
        return volume
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    n4.Execute(small, bright)
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    seen = log_field[volume > threshold]
    return (volume / np.exp(log_field.clip(seen.min(), seen.max()))).astype(np.float32)
