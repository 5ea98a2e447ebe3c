"""
Correlations of features and their one-to-one matching by numpy and scipy, for
src/analysis/matching.test.ts, and pairs, triples and virtual weights, for src/analysis/composition.test.ts:
dense arrays and textbook functions, no shared code.

    python test/oracles/composition.py     writes test/fixtures/composition/composition.json
"""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammainc, gammaincc
from scipy.stats import (
    binomtest, false_discovery_control, norm, pearson3, pearsonr, rankdata,
)

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


def turned(x, y, document):
    """Meetings of two boolean series, their mean over all turns of every document, and both exact tails."""
    total, mean, pmf = 0, 0.0, np.array([1.0])
    for d in np.unique(document):
        u, v = x[document == d], y[document == d]
        overlaps = np.array([np.sum(np.roll(u, s) & v) for s in range(len(u))])
        total += int(overlaps[0])
        mean += overlaps.mean()
        pmf = np.convolve(pmf, np.bincount(overlaps) / len(u))
    return total, mean, float(pmf[total:].sum()), float(pmf[: total + 1].sum())


fires = a > 0
# What meets by construction and what never does.
fires[:, 1] = fires[:, 0] & (rng.random(N) < 0.8) | (rng.random(N) < 0.05)
fires[:, 3] &= ~fires[:, 2]
pairs = []
for f in range(A):
    for g in range(f + 1, A):
        x, y = fires[:, f], fires[:, g]
        n, mean, more, fewer = turned(x, y, document)
        pairs.append(
            {
                "latents": [f, g], "together": n, "turned": mean, "more": more, "fewer": fewer,
                "pmi": float(np.log2((x & y).mean() / (x.mean() * y.mean()))) if n else None,
                "phi": float(np.corrcoef(x, y)[0, 1]),
                "conditional": [float((x & y).sum() / x.sum()), float((x & y).sum() / y.sum())],
            }
        )
p_values = [pair["more"] for pair in pairs]

# Long documents and frequent latents, whose distribution is taken from its moments.
DENSE = 4000
long_document = np.repeat(np.arange(40), DENSE // 40)
dense = rng.random((DENSE, 2)) < 0.2
dense[:, 1] |= dense[:, 0] & (rng.random(DENSE) < 0.06)
dense_test = turned(dense[:, 0], dense[:, 1], long_document)


def triple(x, y, z):
    pa, pb, p0 = z[x & ~y].mean(), z[y & ~x].mean(), z[~x & ~y].mean()
    return {
        "both": float(z[x & y].mean()), "alone": [float(pa), float(pb)], "neither": float(p0),
        "given": [float(z[x].mean()), float(z[y].mean())],
        "predicted": float(1 - (1 - pa) * (1 - pb) / (1 - p0)),
    }


triples = [
    {"latents": list(t), **triple(*(fires[:, f] for f in t))} for t in ((0, 4, 1), (2, 5, 6), (6, 7, 8))
]
decoder, encoder = rng.normal(size=(2, 5, 8)).round(3)
products = decoder @ encoder.T
lengths = np.linalg.norm(decoder, axis=1)[:, None] * np.linalg.norm(encoder, axis=1)
tied = np.round(rng.normal(size=30), 1)

out = Path(__file__).parent.parent / "fixtures" / "composition"
out.mkdir(parents=True, exist_ok=True)
(out / "composition.json").write_text(
    json.dumps(
        {
            "positions": N, "a": a.T.tolist(), "b": b.T.tolist(), "document": document.tolist(),
            "correlation": correlation,
            "fires": fires.T.astype(int).tolist(), "pairs": pairs,
            "q": false_discovery_control(p_values).tolist(),
            "dense": {
                "at": [np.flatnonzero(dense[:, k]).tolist() for k in range(2)], "documents": 40, "positions": DENSE,
                "together": dense_test[0], "turned": dense_test[1], "more": dense_test[2], "fewer": dense_test[3],
            },
            "triples": triples,
            "weights": {
                "decoder": decoder.tolist(), "encoder": encoder.tolist(),
                "weight": products.tolist(), "cosine": (products / lengths).tolist(),
            },
            "ranks": {"values": tied.tolist(), "ranks": (len(tied) + 1 - rankdata(tied)).tolist()},
            "tails": {
                "normal": [[z, float(norm.sf(z))] for z in (-2.0, 0.0, 0.5, 1.96, 6.0, 12.0)],
                "pearson3": [
                    [x, skew, float(pearson3.sf(x, skew))]
                    for x in (-1.5, 0.0, 2.5, 6.0) for skew in (-0.7, -0.05, 0.0, 0.02, 0.4, 1.5)
                ],
                "gamma": [[k, x, float(gammainc(k, x)), float(gammaincc(k, x))] for k, x in ((3, 0.2), (3, 9.0), (250.5, 260.0))],
                "wilson": [
                    [k, n, *map(float, binomtest(k, n).proportion_ci(method="wilson"))] for k, n in ((0, 20), (7, 20), (20, 20))
                ],
            },
            "assignment": {"rows": rows.tolist(), "columns": columns.tolist(), "total": float(positive[rows, columns].sum())},
        }
    )
    + "\n"
)
