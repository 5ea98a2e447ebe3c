"""Description length of codes and of dense columns, and variance explained, by numpy.

Run: python test/oracles/structure.py   (writes test/fixtures/supervised/structure.json)
"""

import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(3)
ROWS, D_IN, D_SAE, TOLERANCE = 400, 6, 12, 0.01

W_dec = rng.normal(0, 1, (D_SAE, D_IN)).astype(np.float32)
b_dec = rng.normal(0, 1, D_IN).astype(np.float32)
codes = np.where(rng.random((ROWS, D_SAE)) < 0.25, rng.exponential(1.5, (ROWS, D_SAE)) + 0.1, 0).astype(np.float32)
codes[:, 5] = 0
codes[:, 6] = rng.uniform(0.5, 1.5, ROWS)
x = (codes @ W_dec + b_dec + rng.normal(0, 0.4, (ROWS, D_IN))).astype(np.float32)

W, X, C = W_dec.astype(np.float64), x.astype(np.float64), codes.astype(np.float64)


def entropy(bins):
    counts = np.unique(bins, return_counts=True)[1]
    q = counts / counts.sum()
    return float(-(q * np.log2(q)).sum())


def binary(p):
    return 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


variance = ((X - X.mean(0)) ** 2).sum()
error = ((X - b_dec - C @ W) ** 2).sum()
step = np.sqrt(12 * TOLERANCE * error / (C > 0).sum())
firing = values = 0.0
rounded = C.copy()
for f in range(D_SAE):
    on = C[:, f] > 0
    if not on.any():
        continue
    width = step / np.linalg.norm(W[f])
    bins = np.floor(C[on, f] / width)
    rounded[on, f] = (bins + 0.5) * width
    firing += binary(on.mean())
    values += on.mean() * entropy(bins)
target = ((X - b_dec - rounded @ W) ** 2).sum()


def dense(columns):
    cost = lambda width: ((columns - width * np.floor(columns / width + 0.5)) ** 2).sum()
    low, high = 1e-3, 100.0
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    bits = sum(entropy(np.floor(columns[:, c] / low + 0.5)) for c in range(columns.shape[1]))
    assert abs(cost(low) / target - 1) < 1e-3
    return bits


centred = X - X.mean(0)
_, vectors = np.linalg.eigh(centred.T @ centred / ROWS)
components = centred @ vectors[:, ::-1]

out = Path(__file__).parent.parent / "fixtures" / "supervised" / "structure.json"
out.write_text(
    json.dumps(
        {
            "dIn": D_IN,
            "dSae": D_SAE,
            "W_dec": [float(v) for v in W_dec.ravel()],
            "b_dec": [float(v) for v in b_dec],
            "x": [float(v) for v in x.ravel()],
            "codes": [float(v) for v in codes.ravel()],
            "step": float(step),
            "fvu": float(error / variance),
            "fvuRounded": float(target / variance),
            "firing": firing,
            "values": values,
            "dimensions": dense(centred.astype(np.float32).astype(np.float64)),
            "components": dense(components),
        }
    )
    + "\n"
)
