"""
Correlations of features and their one-to-one matching by numpy and scipy, for
src/analysis/matching.test.ts: dense arrays and textbook functions, no shared code.

    python test/oracles/composition.py     writes test/fixtures/composition/composition.json
"""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import pearsonr

rng = np.random.default_rng(0)
N, A, B, DOCS = 331, 9, 11, 13


def sparse(n, width, density):
    acts = rng.exponential(size=(n, width)) * (rng.random((n, width)) < density)
    return np.round(acts, 3)


a = sparse(N, A, 0.2)
b = sparse(N, B, 0.15)
b[:, 3] = np.round(a[:, 2] * 1.5 + 0.1 * (a[:, 2] > 0), 3)
b[:, 7] = np.round(0.5 * a[:, 4], 3)
document = np.sort(rng.integers(0, DOCS, N))
document = np.unique(document, return_inverse=True)[1]

correlation = [[float(pearsonr(a[:, f], b[:, g])[0]) for g in range(B)] for f in range(A)]
positive = np.maximum(np.array(correlation), 0)
rows, columns = linear_sum_assignment(-positive)

out = Path(__file__).parent.parent / "fixtures" / "composition"
out.mkdir(parents=True, exist_ok=True)
(out / "composition.json").write_text(
    json.dumps(
        {
            "positions": N, "a": a.T.tolist(), "b": b.T.tolist(), "document": document.tolist(),
            "correlation": correlation,
            "assignment": {"rows": rows.tolist(), "columns": columns.tolist(), "total": float(positive[rows, columns].sum())},
        }
    )
    + "\n"
)
