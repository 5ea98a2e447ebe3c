"""Supervised evaluation by numpy and scikit-learn: sparse probing, SCR, TPP on a small made-up sample.

Run: python test/oracles/supervised.py   (writes test/fixtures/supervised/fixture.json)

Classes are of equal size, so that drawing balanced rows takes all of them, and nothing depends on the draw.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

rng = np.random.default_rng(4)
D_IN, D_SAE, DOCUMENTS = 8, 16, 12


def sample(cell):
    labels = np.array([(a, b) for a in (0, 1) for b in (0, 1)] * cell)
    rows = len(labels)
    codes = np.maximum(rng.normal(0, 1, (rows, D_SAE)) - 0.3, 0)
    a, b = labels.T
    codes[:, 0] = (0.6 * a + rng.normal(0, 0.5, rows)).clip(0)
    codes[:, 1] = (1.5 * b + rng.normal(0, 0.4, rows)).clip(0)
    codes[:, 2] = (0.8 * b + rng.normal(0, 0.6, rows)).clip(0)
    codes[:, 3] = (0.5 * a + rng.normal(0, 0.6, rows)).clip(0)
    return {"codes": codes.astype(np.float32), "labels": labels, "document": rng.integers(0, DOCUMENTS, rows)}


W_dec = rng.normal(0, 1, (D_SAE, D_IN))
W_dec = (W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)).astype(np.float32)
train, test = sample(30), sample(25)
for part in (train, test):
    error = rng.normal(0, 0.3, (len(part["labels"]), D_IN))
    part["x"] = (part["codes"] @ W_dec + error).astype(np.float32)


class Probe:
    def __init__(self, x, y):
        scaler = StandardScaler().fit(x.astype(np.float64))
        fitted = LogisticRegression(C=1.0, tol=1e-9, max_iter=10000).fit(scaler.transform(x), y)
        self.w = fitted.coef_[0] / scaler.scale_
        self.b = fitted.intercept_[0] - self.w @ scaler.mean_

    def scores(self, x):
        return x.astype(np.float64) @ self.w + self.b


def difference(values, y):
    values = values.astype(np.float64)
    return values[y == 1].mean(0) - values[y == 0].mean(0)


def ranked(effects):
    return [int(i) for i in np.argsort(-effects, kind="stable") if effects[i] > 0]


def measures(scores, y):
    said = scores >= 0
    return {
        "accuracy": accuracy_score(y, said),
        "balancedAccuracy": balanced_accuracy_score(y, said),
        "auc": roc_auc_score(y, scores),
        "f1": f1_score(y, said),
    }


def probing(column):
    y, asked = train["labels"][:, column], test["labels"][:, column]
    found = {}
    for name, key in (("latents", "codes"), ("neurons", "x")):
        order = ranked(np.abs(difference(train[key], y)))
        for k in (1, 2, 5):
            columns = order[:k]
            scores = Probe(train[key][:, columns], y).scores(test[key][:, columns])
            found[f"{name} {k}"] = {"columns": columns, **measures(scores, asked)}
    found[f"full {D_IN}"] = measures(Probe(train["x"], y).scores(test["x"]), asked)
    return found


REMOVED = [1, 2, 5, 10]


def scr(target, spurious):
    a, b = train["labels"][:, target], train["labels"][:, spurious]
    same = a == b
    clean, biased, other = Probe(train["x"], a), Probe(train["x"][same], a[same]), Probe(train["x"], b)
    asked = test["labels"][:, target]
    accuracy = lambda scores: float(np.mean((scores >= 0) == asked))
    order = ranked(np.abs(difference(train["codes"], b) * (W_dec.astype(np.float64) @ other.w)))
    full, base = accuracy(clean.scores(test["x"])), accuracy(biased.scores(test["x"]))
    scores, mean_scores = [], []
    means = train["codes"].astype(np.float64).mean(0)
    for n in REMOVED:
        x = test["x"].astype(np.float64) - test["codes"][:, order[:n]].astype(np.float64) @ W_dec[order[:n]]
        scores.append((accuracy(biased.scores(x)) - base) / (full - base))
        x = x + means[order[:n]] @ W_dec[order[:n]].astype(np.float64)
        mean_scores.append((accuracy(biased.scores(x)) - base) / (full - base))
    return {"clean": full, "biased": base, "order": order, "scores": scores, "meanScores": mean_scores}


def tpp():
    probes, orders = [], []
    for column in (0, 1):
        y = train["labels"][:, column]
        probe = Probe(train["x"], y)
        probes.append(probe)
        orders.append(ranked(difference(train["codes"], y) * (W_dec.astype(np.float64) @ probe.w)))
    found = []
    for n in REMOVED[:3]:
        drops = np.zeros((2, 2))
        for j, order in enumerate(orders):
            x = test["x"].astype(np.float64) - test["codes"][:, order[:n]].astype(np.float64) @ W_dec[order[:n]]
            for i, probe in enumerate(probes):
                asked = test["labels"][:, i]
                before = np.mean((probe.scores(test["x"]) >= 0) == asked)
                drops[j, i] = before - np.mean((probe.scores(x) >= 0) == asked)
        own = float(np.mean(np.diag(drops)))
        others = float(np.mean([drops[0, 1], drops[1, 0]]))
        found.append({"n": n, "own": own, "others": others, "score": own - others})
    return found


def plain(part):
    return {
        "x": [float(v) for v in part["x"].ravel()],
        "codes": [float(v) for v in part["codes"].ravel()],
        "a": part["labels"][:, 0].tolist(),
        "b": part["labels"][:, 1].tolist(),
        "document": part["document"].tolist(),
    }


out = Path(__file__).parent.parent / "fixtures" / "supervised" / "fixture.json"
out.write_text(
    json.dumps(
        {
            "dIn": D_IN,
            "dSae": D_SAE,
            "documents": DOCUMENTS,
            "W_dec": [float(v) for v in W_dec.ravel()],
            "train": plain(train),
            "test": plain(test),
            "probing": {"a": probing(0), "b": probing(1)},
            "scr": {"a b": scr(0, 1), "b a": scr(1, 0)},
            "tpp": tpp(),
        }
    )
    + "\n"
)
