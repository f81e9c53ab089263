"""Feature sets and the MLP of the learned optimizers, slow and plain: in NumPy, by parameter."""

import numpy as np

TIME_SCALES = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000]


def decays(initial, shift):
    return [1 - np.exp(np.log(1 - b) + 10 * float(s)) for b, s in zip(initial, shift, strict=True)]


class SlowMomenta:
    """Momentum features of one tensor, in float64."""

    def __init__(self, theta, shape):
        self.momenta = [np.zeros(shape) for _ in range(6)]

    def features(self, index, param, worker_deltas, delta):
        return [
            *worker_deltas[(slice(None), *index)],
            param[index],
            *(m[index] for m in self.momenta),
        ]

    def update(self, delta):
        for i, b in enumerate([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999]):
            self.momenta[i] = b * self.momenta[i] + (1 - b) * delta


class SlowAda:
    """Ada features of one tensor, in float64, with Adafactor's sums written out."""

    def __init__(self, theta, shape):
        shifts = theta["features"]
        self.b_momentum = decays([0.9, 0.99, 0.999], shifts["momentum_decays"])
        self.b_second = decays([0.999], shifts["second_moment_decays"])[0]
        self.b_factor = decays([0.9, 0.99, 0.999], shifts["adafactor_decays"])
        self.momenta = [np.zeros(shape) for _ in range(3)]
        self.second = np.zeros(shape)
        # Running averages of Δ², from which rows and columns are means.
        self.squares = [np.zeros(shape) for _ in range(3)]
        if len(shape) >= 2:
            by_size = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
            self.column_axis, self.row_axis = by_size[-2:]
        else:
            self.row_axis = None

    def update(self, delta):
        for i in range(3):
            b = self.b_momentum[i]
            self.momenta[i] = b * self.momenta[i] + (1 - b) * delta
            b = self.b_factor[i]
            self.squares[i] = b * self.squares[i] + (1 - b) * (delta**2 + 1e-30)
        self.second = self.b_second * self.second + (1 - self.b_second) * delta**2

    def features(self, index, param, worker_deltas, delta):
        m = [momentum[index] for momentum in self.momenta]
        v = self.second[index]
        rows, columns, gradient_factors, momentum_factors = [], [], [], []
        for squares in self.squares:
            if self.row_axis is None:
                row = column = squares[index]
                gradient_factors.append(1 / np.sqrt(max(row + 1e-9, 1e-9)))
                momentum_factors.append(1 / np.sqrt(row + 1e-6))
            else:
                along_row = [slice(j, j + 1) for j in index]
                along_row[self.row_axis] = slice(None)
                row = squares[tuple(along_row)].mean()
                along_column = [slice(j, j + 1) for j in index]
                along_column[self.column_axis] = slice(None)
                column = squares[tuple(along_column)].mean()
                block = [slice(j, j + 1) for j in index]
                block[self.row_axis] = block[self.column_axis] = slice(None)
                row_mean = squares[tuple(block)].mean()
                factor = 1 / np.sqrt(max(row / (row_mean + 1e-9), 1e-9))
                factor *= 1 / np.sqrt(max(column, 1e-9))
                gradient_factors.append(factor)
                momentum_factors.append(factor)
            rows.append(row)
            columns.append(column)
        return [
            *worker_deltas[(slice(None), *index)],
            param[index],
            *m,
            v,
            *(value / np.sqrt(v + 1e-6) for value in m),
            1 / np.sqrt(v + 1e-6),
            *(delta[index] * factor for factor in gradient_factors),
            *rows,
            *columns,
            *(1 / np.sqrt(row + 1e-8) for row in rows),
            *(1 / np.sqrt(column + 1e-8) for column in columns),
            *(value * factor for value, factor in zip(m, momentum_factors, strict=True)),
        ]


def mlp_outputs(mlp, features, time=()):
    """The outputs of the MLP for each parameter, by its index, as the features are."""
    mlp = {name: np.asarray(value, np.float64) for name, value in mlp.items()}
    mean_squares = np.mean([x**2 for x in features.values()], axis=0)
    outputs = {}
    last = len(mlp) // 2 - 1
    for i, found in features.items():
        x = np.concatenate([found / np.sqrt(mean_squares + 1e-5), time])
        for layer in range(last):
            x = np.maximum(x @ mlp[f"w{layer}"] + mlp[f"b{layer}"], 0)
        outputs[i] = x @ mlp[f"w{last}"] + mlp[f"b{last}"]
    return outputs
