"""Every metric of `evaluate(..., detail)` of a small SAE in the built-in model, in float64, by plain formulas.

    lens corpus --split test --count 14 --json > texts.jsonl
    python test/oracles/evaluation.py models/tiny test/fixtures/evaluation texts.jsonl

Writes the SAE (SAELens' layout), the texts, and expected.json. Shares no code with Lens: rows are packed,
the model is run (Hugging Face transformers, float64, hooks on its blocks), and every formula is written
out here. Intervals are those of 20,000 draws of documents by numpy's generator.
Needs torch, transformers, tokenizers, safetensors, numpy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

MODEL, OUT = Path(sys.argv[1]), Path(sys.argv[2])
CONTEXT, D_SAE, K, LAYER = 64, 64, 8, 2
# The start of each story: enough tokens for the model to tell them apart, few enough for a fixture.
TEXTS = [json.loads(line)["text"][:260] for line in Path(sys.argv[3]).read_text().splitlines()]
torch.set_default_dtype(torch.float64)

# --- rows: BOS before every document and nowhere else, cut at CONTEXT ---
tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
config = json.loads((MODEL / "config.json").read_text())
stream: list[tuple[int, int]] = []
for d, text in enumerate(TEXTS):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream += [(config["bos_token_id"], -1)] + [(i, d) for i in ids]
rows = [stream[i : i + CONTEXT] for i in range(0, len(stream), CONTEXT)]

model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float64).eval()
block = model.transformer.h[LAYER]


@torch.no_grad()
def forward(tokens, replace=None):
    """Logits, and what the block gives; `replace(x)` takes its place."""
    seen = {}

    def hook(_module, _inputs, output):
        x = output[0] if isinstance(output, tuple) else output
        seen["x"] = x
        if replace is None:
            return None
        y = replace(x)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    handle = block.register_forward_hook(hook)
    logits = model(tokens).logits
    handle.remove()
    return logits, seen["x"]


documents = [torch.tensor([d for _, d in row]) for row in rows]
clean = [forward(torch.tensor([[t for t, _ in row]])) for row in rows]
x = torch.cat([a[0][d >= 0] for (_, a), d in zip(clean, documents)])
doc = torch.cat([d[d >= 0] for d in documents]).numpy()
N, width = x.shape

# --- an SAE whose decoder rows are activations, with noise; the last four latents never fire ---
torch.manual_seed(3)
mean = x.mean(0)
chosen = x[torch.randperm(N)[:D_SAE]] - mean + 0.3 * torch.randn(D_SAE, width) * x.std()
W_dec = (chosen / chosen.norm(dim=1, keepdim=True)).float()
W_enc = (W_dec + 0.1 * torch.randn(D_SAE, width) / width**0.5).float()
b_dec = (mean + 0.05 * torch.randn(width) * x.std()).float()
b_enc = (0.02 * torch.randn(D_SAE)).float()
b_enc[-4:] = -1e3
OUT.mkdir(parents=True, exist_ok=True)
(OUT / "sae").mkdir(exist_ok=True)
save_file({"W_enc": W_enc.T.contiguous(), "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}, OUT / "sae" / "sae_weights.safetensors")
hook_point = f"blocks.{LAYER}.hook_resid_post"
(OUT / "sae" / "cfg.json").write_text(
    json.dumps(
        {
            **{"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": False, "d_in": width, "d_sae": D_SAE},
            **{"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"},
            "metadata": {"sae_lens_version": "6.0.0", "hook_name": hook_point, "context_size": CONTEXT, "prepend_bos": True},
        },
        indent=1,
    )
    + "\n"
)
W_enc, b_enc, W_dec, b_dec = (w.double() for w in (W_enc, b_enc, W_dec, b_dec))


def encode(v):
    z = (v - b_dec) @ W_enc.T + b_enc
    top = z.topk(K, dim=-1)
    return torch.zeros_like(z).scatter(-1, top.indices, top.values.relu())


def sae(v):
    return encode(v) @ W_dec + b_dec


# --- per position ---
a = encode(x)
out = sae(x)
e = x - out
centre = x - mean
row = {
    "sse": (e**2).sum(1),
    "spread": (centre**2).sum(1),
    "centred": ((e - e.mean(0)) ** 2).sum(1),
    "xx": (x**2).sum(1),
    "oo": (out**2).sum(1),
    "dot": (x * out).sum(1),
    "cos": F.cosine_similarity(x, out, dim=1),
    "ratio": out.norm(dim=1) / x.norm(dim=1),
    "legacy": (e**2).sum(1) / (centre**2).sum(1),
    "l0": (a > 0).sum(1).double(),
    "l1": a.sum(1),
}
# --- per prediction ---
pred = {name: [] for name in ("clean", "sae", "zero", "mean", "kl_sae", "kl_zero", "kl_mean")}
pred_doc = []
for (logits, _), line, d in zip(clean, rows, documents):
    tokens = torch.tensor([[t for t, _ in line]])
    keep = (d >= 0)[:, None]
    take = d[1:] >= 0
    pred_doc += d[1:][take].tolist()
    log_p = logits[0, :-1].log_softmax(-1)
    nll = lambda lp: -lp.gather(1, tokens[0, 1:, None])[:, 0]
    pred["clean"] += nll(log_p)[take].tolist()
    for name, value in (("sae", sae), ("zero", torch.zeros_like), ("mean", lambda v: mean.expand_as(v))):
        patched, _ = forward(tokens, lambda v: torch.where(keep, value(v), v))
        log_q = patched[0, :-1].log_softmax(-1)
        pred[name] += nll(log_q)[take].tolist()
        pred[f"kl_{name}"] += (log_p.exp() * (log_p - log_q)).sum(1)[take].tolist()


def by_document(values, of):
    return np.bincount(of, weights=np.asarray(values, dtype=np.float64), minlength=len(TEXTS))


R = {name: by_document(v.numpy(), doc) for name, v in row.items()} | {"n": by_document(np.ones(N), doc)}
pred_doc = np.asarray(pred_doc)
P = {name: by_document(v, pred_doc) for name, v in pred.items()} | {"n": by_document(np.ones(len(pred_doc)), pred_doc)}

reconstruction = {
    "l0": lambda s: s["l0"] / s["n"],
    "l1": lambda s: s["l1"] / s["n"],
    "mse": lambda s: s["sse"] / (s["n"] * width),
    "fvu": lambda s: s["sse"] / s["spread"],
    "fvuLegacy": lambda s: s["legacy"] / s["n"],
    "fvuVariance": lambda s: s["centred"] / s["spread"],
    "fvuUncentred": lambda s: s["sse"] / s["xx"],
    "cosine": lambda s: s["cos"] / s["n"],
    "normRatio": lambda s: s["ratio"] / s["n"],
    "relativeReconstructionBias": lambda s: s["oo"] / s["dot"],
}
predictions = {
    "ceClean": lambda s: s["clean"] / s["n"],
    "ceSae": lambda s: s["sae"] / s["n"],
    "ceZero": lambda s: s["zero"] / s["n"],
    "ceMean": lambda s: s["mean"] / s["n"],
    "ceIncrease": lambda s: (s["sae"] - s["clean"]) / s["n"],
    "ceLossRecovered": lambda s: (s["zero"] - s["sae"]) / (s["zero"] - s["clean"]),
    "ceLossRecoveredFromMean": lambda s: (s["mean"] - s["sae"]) / (s["mean"] - s["clean"]),
    "klSae": lambda s: s["kl_sae"] / s["n"],
    "klZero": lambda s: s["kl_zero"] / s["n"],
    "klMean": lambda s: s["kl_mean"] / s["n"],
    "klRecovered": lambda s: (s["kl_zero"] - s["kl_sae"]) / s["kl_zero"],
    "klRecoveredFromMean": lambda s: (s["kl_mean"] - s["kl_sae"]) / s["kl_mean"],
}
draws = np.random.default_rng(0).integers(0, len(TEXTS), (20_000, len(TEXTS)))


def estimates(formulas, sums):
    found = {}
    for name, formula in formulas.items():
        drawn = formula({k: v[draws].sum(1) for k, v in sums.items()})
        low, high = np.percentile(drawn, [2.5, 97.5])
        found[name] = {"value": float(formula({k: v.sum() for k, v in sums.items()})), "low": low, "high": high}
    return found


# The forms of other libraries, by their own expressions, where they are another formula than the above.
check = estimates(reconstruction, R)
assert abs(1 - check["fvuVariance"]["value"] - (1 - torch.var(e, dim=0).sum() / torch.var(x, dim=0).sum())) < 1e-12
assert abs(check["fvuLegacy"]["value"] - (e.pow(2).sum(-1) / (x - x.mean(0)).pow(2).sum(-1)).mean()) < 1e-12


def max_other(w):
    c = F.normalize(w, dim=1) @ F.normalize(w, dim=1).T
    c.fill_diagonal_(-2)
    return c.max(1).values


density = (a > 0).double().mean(0).numpy()
alive = density[density > 0]
lowest = int(np.floor(np.log10(1 / N)))
histogram, edges = np.histogram(np.log10(alive), bins=-lowest * 4, range=(lowest, 0))


def spread(values):
    q = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    return dict(zip(("min", "q05", "q25", "median", "q75", "q95", "max"), q.tolist())) | {"mean": float(np.mean(values))}


expected = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
    "options": {"hookPoint": hook_point, "contextLength": CONTEXT, "texts": TEXTS},
    "positions": N,
    "predictions": len(pred_doc),
    "reconstruction": check,
    "prediction": estimates(predictions, P),
    "density": {
        "alive": int((density > 0).sum()),
        "dead": int((density == 0).sum()),
        "above1Percent": float((density > 0.01).mean()),
        "above10Percent": float((density > 0.1).mean()),
        "spread": spread(density),
        "histogram": {"edges": edges.tolist(), "counts": histogram.tolist()},
    },
    "geometry": {
        "decoderMaxCosine": max_other(W_dec).tolist(),
        "encoderMaxCosine": max_other(W_enc).tolist(),
        "encoderDecoderCosine": F.cosine_similarity(W_enc, W_dec, dim=1).tolist(),
        "decoderNorm": W_dec.norm(dim=1).tolist(),
        "encoderNorm": W_enc.norm(dim=1).tolist(),
    },
}
(OUT / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")
for part in ("reconstruction", "prediction"):
    for name, v in expected[part].items():
        print(f"{name:28} {v['value']:.6g}  [{v['low']:.6g}, {v['high']:.6g}]")
print(N, "positions", len(pred_doc), "predictions", expected["density"]["alive"], "alive")
