"""Absorption by numpy, row by row as SAEBench's calculator goes about it, with decoder rows as they are.

Run: python test/oracles/absorption.py   (writes test/fixtures/supervised/absorption.json)
"""

import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(7)
ROWS, D_IN, D_SAE, MAIN = 60, 8, 24, [0, 1]

W_dec = rng.normal(0, 1, (D_SAE, D_IN)).astype(np.float32)
direction = rng.normal(0, 2, D_IN)
p = direction / np.linalg.norm(direction)
# The main latents and some others point along p.
for f, share in ((0, 1.0), (1, 0.7), (2, 0.8), (3, 0.5), (4, 0.3), (5, 0.15)):
    W_dec[f] = (share * p + 0.2 * rng.normal(0, 1, D_IN) * (1 - share)).astype(np.float32)
codes = np.maximum(rng.normal(0, 1, (ROWS, D_SAE)) - 0.6, 0).astype(np.float32)
codes[::3, MAIN] = 0
codes[1::4, 2] += 3
x = (codes @ W_dec + rng.normal(0, 0.2, (ROWS, D_IN))).astype(np.float32)

W = W_dec.astype(np.float64)
along = W @ p
cosines = along / np.linalg.norm(W, axis=1)
fractions, fulls, tops = [], [], []
for n in range(ROWS):
    there = float(x[n].astype(np.float64) @ p)
    parts = codes[n].astype(np.float64) * along
    main = float(parts[MAIN].sum())
    others = [parts[f] for f in range(D_SAE) if f not in MAIN and cosines[f] >= 0.1 and parts[f] > 0]
    absorbing = float(sum(sorted(others, reverse=True)[:3]))
    if main >= there or absorbing / there < 0.4:
        fraction = 0.0
    elif main <= 0:
        fraction = 1.0
    else:
        taken = min(absorbing, there - main)
        fraction = float(np.clip(taken / (taken + main), 0, 1))
    top = int(np.argmax(parts)) if parts.max() > 0 else -1
    silent = bool((codes[n, MAIN] == 0).all())
    full = top >= 0 and silent and cosines[top] >= 0.025 and there >= 0 and parts[top] / there >= 0.4
    fractions.append(fraction)
    fulls.append(int(full))
    tops.append(top)

assert 0 < sum(fulls) < ROWS and len({f for f in fractions if 0 < f < 1}) > 5
out = Path(__file__).parent.parent / "fixtures" / "supervised" / "absorption.json"
out.write_text(
    json.dumps(
        {
            "dIn": D_IN,
            "dSae": D_SAE,
            "main": MAIN,
            "direction": direction.tolist(),
            "W_dec": [float(v) for v in W_dec.ravel()],
            "x": [float(v) for v in x.ravel()],
            "codes": [float(v) for v in codes.ravel()],
            "fraction": fractions,
            "full": fulls,
            "top": tops,
        }
    )
    + "\n"
)
