"""Interchange of attributes by numpy: a model that reads signs off directions, every base with one possible source.

Run: python test/oracles/interchange.py   (writes test/fixtures/supervised/interchange.json)
"""

import itertools
import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(11)
D_IN, D_SAE, TAKEN = 10, 20, 3
ATTRIBUTES, UNITS, FORMS = ["a", "b", "c"], 4, 3

W_dec = rng.normal(0, 1, (D_SAE, D_IN)).astype(np.float32)
readout = np.linalg.qr(rng.normal(0, 1, (D_IN, D_IN)))[0][:3]
prompts = [
    {"unit": u, "form": f, "values": list(values)}
    for u in range(UNITS)
    for f in range(FORMS)
    for values in itertools.product((0, 1), repeat=3)
]
signs = np.array([[1 if v else -1 for v in one["values"]] for one in prompts])
# Latents that follow one attribute, two of them at once, and none.
codes = np.maximum(rng.normal(0, 0.4, (len(prompts), D_SAE)), 0)
for f in range(9):
    codes[:, f] += (1 + signs[:, f % 3]) * rng.uniform(0.3, 0.8)
for f in range(9, 12):
    codes[:, f] += (1 + signs[:, f % 3]) * (1 + signs[:, (f + 1) % 3]) * 0.3
W = W_dec.astype(np.float64)
for f in range(9):
    W_dec[f] += (2.5 * readout[f % 3] + 0.8 * readout[(f + 1) % 3]).astype(np.float32)
W = W_dec.astype(np.float64)
codes = codes.astype(np.float32)
x = codes.astype(np.float64) @ W
# The thresholds lie in the middle, and the rest of each activation sees to it that the model is right.
middle = np.array([x @ readout[i] for i in range(3)]).mean(1)
for i in range(3):
    now = x @ readout[i] - middle[i]
    x += ((signs[:, i] * np.maximum(np.abs(now), 1.0)) - now)[:, None] * readout[i]
x = x.astype(np.float32)
told = lambda rows: (rows @ readout.T > middle).astype(int)
truth = np.array([one["values"] for one in prompts])
assert (told(x.astype(np.float64)) == truth).all()

half = lambda odd: [i for i, one in enumerate(prompts) if one["unit"] % 2 == odd]
def source_of(i):
    one = prompts[i]
    (found,) = [
        j
        for j, other in enumerate(prompts)
        if other["form"] == one["form"]
        and other["unit"] % 2 == one["unit"] % 2
        and other["unit"] != one["unit"]
        and all(v != w for v, w in zip(one["values"], other["values"]))
    ]
    return found


def spread(values, own, attribute):
    v = values[own].astype(np.float64)
    means = np.array([v[truth[own, attribute] == k].mean(0) for k in (0, 1)])
    return means.var(0)


test, own = half(1), half(0)
sources = [source_of(i) for i in test]
found = {}
for a, name in enumerate(ATTRIBUTES):
    def rank(values, weight=1.0):
        others = sum(spread(values, own, o) for o in range(3) if o != a)
        score = (spread(values, own, a) - others) * weight
        return [int(i) for i in np.argsort(-score, kind="stable") if score[i] > 0][:TAKEN]

    latents = rank(codes, (W**2).sum(1))
    dimensions = rank(x)
    base, source = x[test].astype(np.float64), x[sources].astype(np.float64)
    change = (codes[sources].astype(np.float64) - codes[test]) 
    v = x[own].astype(np.float64)
    u = v[truth[own, a] == 1].mean(0) - v[truth[own, a] == 0].mean(0)
    u /= np.linalg.norm(u)
    swapped = base.copy()
    swapped[:, dimensions] = source[:, dimensions]
    ways = {
        "latents": base + change[:, latents] @ W[latents],
        "all latents": base + change @ W,
        "dimensions": swapped,
        "means": base + ((source - base) @ u)[:, None] * u,
        "whole": source,
    }
    scores = {}
    for way, rows in ways.items():
        said = told(rows)
        cause = float((said[:, a] == truth[sources, a]).mean())
        isolation = float(np.mean([(said[:, o] == truth[test, o]).mean() for o in range(3) if o != a]))
        scores[way] = {"cause": cause, "isolation": isolation, "disentangle": (cause + isolation) / 2}
    found[name] = {"latents": latents, "dimensions": dimensions, "scores": scores}

out = Path(__file__).parent.parent / "fixtures" / "supervised" / "interchange.json"
out.write_text(
    json.dumps(
        {
            "dIn": D_IN,
            "dSae": D_SAE,
            "taken": TAKEN,
            "attributes": ATTRIBUTES,
            "prompts": prompts,
            "W_dec": [float(v) for v in W_dec.ravel()],
            "x": [float(v) for v in x.ravel()],
            "codes": [float(v) for v in codes.ravel()],
            "readout": readout.ravel().tolist(),
            "middle": middle.tolist(),
            "found": found,
        }
    )
    + "\n"
)
for name, one in found.items():
    print(name, one["latents"], {k: (round(v["cause"], 2), round(v["isolation"], 2)) for k, v in one["scores"].items()})
