"""
What the feature index must count, from dense codes, in numpy: python test/oracles/features.py
writes test/fixtures/features/expected.json, inputs included.
"""
import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(7)
LATENTS, VOCABULARY, ROW = 9, 11, 23
documents = [int(n) for n in rng.integers(4, 40, size=30)]
N = sum(documents)
tokens = rng.integers(0, VOCABULARY, size=N)
# Multiples of 1/64: exact in float32. The last latent never fires, the first on almost everything.
rates = np.array([0.95, 0.5, 0.3, 0.3, 0.2, 0.1, 0.05, 0.01, 0.0])
codes = np.where(rng.random((N, LATENTS)) < rates, rng.integers(1, 400, size=(N, LATENTS)) / 64, 0.0)
codes[:, 3] = np.where(codes[:, 2] > 0, codes[:, 3], 0)  # 3 only where 2 fires
codes[:, 5] = np.where(codes[:, 1] > 0, 0, codes[:, 5])  # 5 never where 1 fires
codes[:, 6] = np.where(tokens == 4, 2.0, 0.0)  # 6 is a token
row = np.arange(N) // ROW
document = np.repeat(np.arange(len(documents)), documents)

fires = codes > 0
place = np.arange(N) - row * ROW
bins = np.floor(np.log2(place + 1)).astype(int)


def latent(f):
    a = codes[:, f]
    on = fires[:, f]
    out = {
        "firings": int(on.sum()),
        "density": float(on.mean()),
        "documents": int(len(set(document[on]))),
        "mean": float(a[on].mean()) if on.any() else 0,
        "max": float(a.max()),
        "histogram": np.histogram(np.log2(a[on]), bins=np.arange(97) / 4 - 12)[0].tolist(),
        "byPlace": [int((on & (bins == b)).sum()) for b in range(6)],
        "rates": [float(on[tokens == t].mean()) for t in range(VOCABULARY)],
        "mass": [float(a[tokens == t].sum()) for t in range(VOCABULARY)],
        "co": (fires[:, f] @ fires.astype(int)).tolist(),
    }
    # ε² of a one-way analysis of variance over token types.
    groups = [a[tokens == t] for t in range(VOCABULARY)]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    total = ((a - a.mean()) ** 2).sum()
    out["tokenSelectivity"] = float(max(0, 1 - (within / (N - VOCABULARY)) / (total / (N - 1)))) if total else 0
    mass = np.array(out["mass"])
    p = mass[mass > 0] / mass.sum() if mass.sum() else np.array([])
    out["tokenTypes"] = float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0
    # Fifths by rank of all firings (there are fewer than are sampled, or ranks are estimates).
    ranked = np.sort(a[on])
    cuts = [int(np.floor(q * len(ranked) / 5 + 0.5)) for q in range(6)]
    out["fifths"] = [[float(ranked[s]), float(ranked[e - 1])] for s, e in zip(cuts, cuts[1:])] if len(ranked) >= 10 else []
    # Correlation of firing with firing.
    with np.errstate(invalid="ignore", divide="ignore"):
        out["phi"] = [None if np.isnan(v) else float(v) for v in np.corrcoef(fires.astype(float).T)[f]]
    return out


expected = {
    "tokens": tokens.tolist(),
    "row": row.tolist(),
    "documentLengths": documents,
    "codes64": (codes * 64).astype(int).tolist(),
    "placeTotals": [int((bins == b).sum()) for b in range(6)],
    "latents": [latent(f) for f in range(LATENTS)],
}
target = Path(__file__).parent.parent / "fixtures/features/expected.json"
target.write_text(json.dumps(expected))
