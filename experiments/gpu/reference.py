"""Learned rules in NumPy and float64, by their equations, for tensors of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

__all__ = ["ReferenceRule"]

Array = np.ndarray

_TIME_SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
_ADA_DECAYS = (0.9, 0.99, 0.999)
_MOMENTUM_DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


@dataclasses.dataclass
class ReferenceRule:
    """A rule on one tensor of shape s, with decays as they are before they are learned.

    Attributes:
      ada: whether features are Ada features (LOptA, LOptR), or momenta alone (LOpt).
      relative: whether steps have the size of Δ, that is LOptR with α = 2, or are the published
        −0.001 · d · exp(0.001 m).
      of_workers: whether gradient inputs are the K worker deltas, or the mean Δ.
      mlp: theta's weights.
    """

    ada: bool
    relative: bool
    of_workers: bool
    mlp: dict[str, Array]

    def __post_init__(self) -> None:
        self.mlp = {name: np.asarray(value, np.float64) for name, value in self.mlp.items()}
        self._averages: list[tuple[float, Array]] = []
        self._second: Array | None = None
        self._squares: list[tuple[float, Array]] = []
        self._round = 0

    def step(self, param: Array, workers: Array) -> Array:
        """What is added to a tensor after a round with worker deltas [K, *s]: shape s."""
        param, workers = np.asarray(param, np.float64), np.asarray(workers, np.float64)
        delta = workers.mean(0)
        self._take_in(delta)
        unit = _rms(delta) if self.relative else 1.0
        inputs = (workers if self.of_workers else delta[None]) / unit
        features = [*inputs, param / unit, *(average / unit for _, average in self._averages)]
        if self.ada:
            features = self._ada(features, delta / unit, unit)
        rows = np.stack([np.broadcast_to(f, param.shape).reshape(-1) for f in features])
        rows /= np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + 1e-5)
        if not self.relative:
            time = [np.tanh(self._round / scale - 1) for scale in _TIME_SCALES]
            constant = np.broadcast_to(np.asarray(time)[:, None], (len(time), rows.shape[1]))
            rows = np.concatenate([rows, constant])
        self._round += 1
        outputs = self._outputs(rows)
        if self.relative:
            step = -2.0 * _rms(delta) * outputs[0] / _rms(outputs[0])
        else:
            step = -0.001 * outputs[0] * np.exp(0.001 * outputs[1])
        return step.reshape(param.shape)

    def _take_in(self, delta: Array) -> None:
        momentum_decays: Sequence[float] = _ADA_DECAYS if self.ada else _MOMENTUM_DECAYS
        old = self._averages or [(decay, np.zeros_like(delta)) for decay in momentum_decays]
        self._averages = [(b, b * average + (1 - b) * delta) for b, average in old]
        second = np.zeros_like(delta) if self._second is None else self._second
        self._second = 0.999 * second + 0.001 * delta**2
        squares = self._squares or [(decay, np.zeros_like(delta)) for decay in _ADA_DECAYS]
        self._squares = [(b, b * s + (1 - b) * (delta**2 + 1e-30)) for b, s in squares]

    def _ada(self, front: list[Array], delta: Array, unit: float) -> list[Array]:
        """All Ada features, of which gradient inputs, parameter and momenta are given."""
        momenta = front[-len(self._averages) :]
        second = self._second / unit**2
        rows, columns, of_delta, of_momenta = [], [], [], []
        for _, squares in self._squares:
            row, column, delta_factor, momentum_factor = _factored(squares / unit**2)
            rows.append(row)
            columns.append(column)
            of_delta.append(delta * delta_factor)
            of_momenta.append(momentum_factor)
        return [
            *front,
            second,
            *(momentum / np.sqrt(second + 1e-6) for momentum in momenta),
            1 / np.sqrt(second + 1e-6),
            *of_delta,
            *rows,
            *columns,
            *(1 / np.sqrt(row + 1e-8) for row in rows),
            *(1 / np.sqrt(column + 1e-8) for column in columns),
            *(m * factor for m, factor in zip(momenta, of_momenta, strict=True)),
        ]

    def _outputs(self, rows: Array) -> Array:
        last = len(self.mlp) // 2 - 1
        for layer in range(last + 1):
            rows = self.mlp[f"w{layer}"].T @ rows + self.mlp[f"b{layer}"][:, None]
            rows = np.maximum(rows, 0) if layer < last else rows
        return rows


def _factored(squares: Array) -> tuple[Array, Array, Array, Array]:
    """Row, column, and what Δ and the momenta are multiplied by, of averages of Δ²."""
    if squares.ndim < 2:
        return (
            squares, squares,
            1 / np.sqrt(np.maximum(squares + 1e-9, 1e-9)), 1 / np.sqrt(squares + 1e-6),
        )  # fmt: skip
    order = sorted(range(squares.ndim), key=lambda axis: (squares.shape[axis], axis))
    second_largest, largest = order[-2:]
    row = squares.mean(largest, keepdims=True)
    column = squares.mean(second_largest, keepdims=True)
    row_mean = row.mean(second_largest, keepdims=True)
    factor = 1 / np.sqrt(np.maximum(row / (row_mean + 1e-9), 1e-9))
    factor = factor / np.sqrt(np.maximum(column, 1e-9))
    return row, column, factor, factor


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(array**2)))
