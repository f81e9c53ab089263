"""scikit-learn's digits in batches."""

import numpy as np
from sklearn.datasets import load_digits

__all__ = ["batches"]


def batches(count: int, *leading: int, size: int = 32, seed: int = 0):
    """Yields `count` times images [*leading, size, 64] and labels [*leading, size]."""
    data = load_digits()
    rng = np.random.default_rng(seed)
    for _ in range(count):
        chosen = rng.integers(len(data.target), size=(*leading, size))
        yield (data.data[chosen] / 16).astype(np.float32), data.target[chosen].astype(np.int32)
