"""Numbers of src/analysis/rules.ts, example-scores.ts and judge-scores.ts by scikit-learn and numpy, on made-up text.

    python test/oracles/explanations.py        writes test/fixtures/explanations/scores.json
"""
import json
import pathlib

import numpy as np
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, r2_score, recall_score, roc_auc_score

rng = np.random.default_rng(0)
V, DOCS = 8, 150
documents = [rng.integers(0, V, rng.integers(25, 40)).tolist() for _ in range(DOCS)]
flat = [(d, i, t) for d, tokens in enumerate(documents) for i, t in enumerate(tokens)]
tokens = np.array([t for _, _, t in flat])
doc = np.array([d for d, _, _ in flat])
place = np.array([i for _, i, _ in flat])
test = doc % 2 == 1
train = ~test
N = len(flat)

# A latent that fires on token 3, less often after token 5, and now and then anywhere.
before = np.where(place > 0, np.roll(tokens, 1), -1)
fires = (tokens == 3) & (rng.random(N) < np.where(before == 5, 0.5, 0.95)) | (rng.random(N) < 0.01)
acts = np.where(fires, np.round(rng.uniform(1, 2, N), 3) + 2 * (before == 1), 0).astype(np.float32).astype(float)

# The rule "token 3" against every firing.
rule = tokens == 3
inside, outside = acts[train & rule].mean(), acts[train & ~rule].mean()
out = {
    "documents": documents,
    "acts": [acts[doc == d].tolist() for d in range(DOCS)],
    "rule": {
        "f1": f1_score(fires[test], rule[test]),
        "precision": precision_score(fires[test], rule[test]),
        "recall": recall_score(fires[test], rule[test]),
        "coverage": acts[test & rule].sum() / acts[test].sum(),
        "r2": r2_score(acts[test], np.where(rule, inside, outside)[test]),
        "always": f1_score(fires[test], np.ones(test.sum())),
    },
}


def backoff(longest):
    """Train mean of the longest run of up to `longest` tokens that train documents hold at least 20 times."""
    runs = {}
    for p in range(N):
        for n in range(1, longest + 1):
            if place[p] >= n - 1 and train[p]:
                runs.setdefault(tuple(tokens[p - n + 1 : p + 1]), []).append(acts[p])
    means = []
    for p in np.flatnonzero(test):
        mean = acts[train].mean()
        for n in range(1, longest + 1):
            run = runs.get(tuple(tokens[p - n + 1 : p + 1]), []) if place[p] >= n - 1 else []
            if len(run) >= 20:
                mean = np.mean(run)
        means.append(mean)
    return r2_score(acts[test], means)


out["variance"] = {"token": backoff(1), "ngram": backoff(3)}

# TF-IDF of windows, idf over train documents.
word = lambda ids: " ".join(f"t{t}" for t in ids)
vectorizer = TfidfVectorizer(token_pattern=r"\S+").fit([word(documents[d]) for d in range(0, DOCS, 2)])
windows = [rng.integers(0, V, 9).tolist() for _ in range(14)]
vectors = vectorizer.transform([word(w) for w in windows]).toarray()
similar = vectors @ vectors.T
areas = [
    roc_auc_score([1] * 6 + [0] * 7, np.concatenate([np.delete(similar[i, :7], i), similar[i, 7:]])) for i in range(7)
]
out["alike"] = {"windows": windows, "similar": similar.tolist(), "areas": areas}

# Are the tokens with large effects those that follow firings?
effects = np.round(rng.normal(size=V), 1)
has_next = np.append(doc[1:] == doc[:-1], False)
of = test & has_next
following = np.roll(tokens, -1)
out["next"] = {"effects": effects.tolist(), "auc": roc_auc_score(fires[of], effects[following[of]])}

# A judge's answers.
truth = rng.random(40) < 0.5
answer = np.where(rng.random(40) < 0.8, truth, ~truth)
predicted = np.clip(acts[:200] * 2 + rng.normal(0, 1, 200), 0, 10).round(2)
out["judge"] = {
    "truth": truth.tolist(),
    "answer": answer.tolist(),
    "youden": 2 * balanced_accuracy_score(truth, answer) - 1,
    "predicted": predicted.tolist(),
    "actual": acts[:200].tolist(),
    "pearson": np.corrcoef(predicted, acts[:200])[0, 1],
    "auc": roc_auc_score(truth, predicted[:40]),
    # 13 of 20 odd ones found among 5.
    "intruder": (13 / 20 - 1 / 5) / (1 - 1 / 5),
}



def wilson(count, of):
    found = binomtest(int(count), int(of)).proportion_ci(method="wilson")
    return [found.low, found.high]


out["judge"]["wilson"] = {"all": wilson(10, 10), "some": wilson(13, 20)}
hits, rejections = (truth & answer).sum(), (~truth & ~answer).sum()
(l1, u1), (l2, u2) = wilson(hits, truth.sum()), wilson(rejections, (~truth).sum())
p1, p2, j = hits / truth.sum(), rejections / (~truth).sum(), out["judge"]["youden"]
out["judge"]["interval"] = [j - np.hypot(p1 - l1, p2 - l2), j + np.hypot(u1 - p1, u2 - p2)]

path = pathlib.Path(__file__).parent.parent / "fixtures/explanations/scores.json"
path.write_text(json.dumps(out) + "\n")
print(path, path.stat().st_size, {k: v for k, v in out.items() if k in ("rule", "variance", "next")})
