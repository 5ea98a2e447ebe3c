"""Fits probes, scores labels and finds principal components with scikit-learn and writes
test/fixtures/concepts/*.json, which src/analysis/probe.test.ts and concept-probes.test.ts compare with. scikit-learn's LogisticRegression minimises
½‖w‖² + C Σ log-loss with a free intercept; here it is run to the end (newton-cholesky, tol 1e-12).

    python test/oracles/concepts.py
"""

import json
import pathlib

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.preprocessing import StandardScaler

FOLDER = pathlib.Path(__file__).parent.parent / "fixtures" / "concepts"
random = np.random.default_rng(3)


def probe(name, x, labels, C=1.0, standardise=False):
    x = np.round(x, 3)
    scaler = StandardScaler().fit(x)
    t = scaler.transform(x) if standardise else x
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(t, labels)
    w, b = model.coef_[0], model.intercept_[0]
    if standardise:
        w = w / scaler.scale_
        b = b - w @ scaler.mean_
    scores = x @ w + b
    predicted = scores >= 0
    return {
        "name": name,
        "C": C,
        "standardise": standardise,
        "x": x.tolist(),
        "labels": labels.tolist(),
        "weights": w.tolist(),
        "bias": b,
        "auc": roc_auc_score(labels, scores),
        "accuracy": accuracy_score(labels, predicted),
        "balancedAccuracy": balanced_accuracy_score(labels, predicted),
        "f1": f1_score(labels, predicted),
        "precision": precision_score(labels, predicted, zero_division=0),
        "recall": recall_score(labels, predicted),
    }


def noisy(x, weights, noise, shift=0.0):
    return (x @ weights + shift + noise * random.standard_normal(len(x)) > 0).astype(int)


def probes():
    one = random.standard_normal((80, 1))
    yield probe("one column", one, noisy(one, np.array([1.0]), 1.0))
    five = random.standard_normal((200, 5)) * [1, 10, 0.1, 3, 1] + [0, 40, 2, -7, 0]
    labels = noisy((five - five.mean(0)) / five.std(0), np.array([1, -1, 0.5, 0, 0]), 0.7, -1.2)
    yield probe("five columns of different units", five, labels)
    yield probe("the same, standardised, weakly penalised", five, labels, 100.0, True)
    sparse = np.maximum(random.standard_normal((300, 4)) - 1.5, 0) * 4
    yield probe("sparse columns, a rare label", sparse, noisy(sparse, np.ones(4), 1.0, -4.5), 1.0, True)
    apart = np.concatenate([random.standard_normal((20, 2)) - 4, random.standard_normal((20, 2)) + 4])
    yield probe("classes that a plane separates", apart, np.repeat([0, 1], 20))
    wide = random.standard_normal((150, 50)) @ random.standard_normal((50, 50)) * 0.3
    wide[:, 7] = 2.5
    labels = noisy(wide, random.standard_normal(50) * 0.2, 2.0)
    yield probe("fifty columns, correlated, one of them constant", wide, labels)
    yield probe("the same, standardised", wide, labels, 0.1, True)


def curves():
    for n, levels in [(50, 1000), (60, 4), (40, 1)]:
        scores = random.integers(0, levels, n) / levels - 0.3
        labels = (random.random(n) < 0.3).astype(int)
        yield {"scores": scores.tolist(), "labels": labels.tolist(), "auc": roc_auc_score(labels, scores)}


def components():
    x = np.round(random.standard_normal((40, 6)) @ random.standard_normal((6, 6)) + 3, 3)
    pca = PCA().fit(x)
    return {"x": x.tolist(), "mean": pca.mean_.tolist(), "components": pca.components_.tolist(),
            "covariance": (np.cov(x.T, bias=True)).tolist()}


FOLDER.mkdir(parents=True, exist_ok=True)
fixture = {"probes": list(probes()), "curves": list(curves())}
(FOLDER / "probes.json").write_text(json.dumps(fixture) + "\n")
(FOLDER / "components.json").write_text(json.dumps(components()) + "\n")
