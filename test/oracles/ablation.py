"""Ablation and attribution of SAE latents in a small GPT-2, as Hugging Face transformers and autograd
compute them in float64. Writes to test/fixtures/ablation/ what src/analysis/ablate.test.ts and
attribute.test.ts compare with:

    saes.safetensors   the weights of the SAEs
    expected.json      texts, and for every case what comes out

    python test/oracles/ablation.py            # from the repository's root

The model is test/fixtures/gpt2-tiny/f32. Changes are added by forward hooks to what modules take and
give; what they are is written out from the definition, decode(a without f) - decode(a), for every
position by two decodings. Gradients are autograd's, the direct path's with the final norm's standard
deviation detached. Needs torch, transformers, tokenizers and safetensors.
"""

import json
import math
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
OUT = ROOT / "fixtures" / "ablation"
MODEL = ROOT / "fixtures" / "gpt2-tiny" / "f32"
BOS, D, F, CONTEXT = 0, 40, 48, 24

TEXTS = [
    "One day a small dog ran into the forest. The fox was happy.",
    "The cat sat down, and the dog said: 🐉 龍?",
    "It was late. They went home together, and all was well.",
    "Where are you going? asked the bird.",
    "I am not coming back until the sun is down. The bird laughed and the fox laughed.",
]
PROMPT = "The fox was not happy, and the bird"

model = GPT2LMHeadModel.from_pretrained(MODEL).double().eval()
for parameter in model.parameters():
    parameter.requires_grad_(False)
tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))


class Sae:
    """x -> t = T(x) -> z = W_enc (t - b_dec) + b_enc -> a; decode(a) = T^-1(W_dec^T a + b_dec)."""

    def __init__(self, seed, d_in=D, d_out=D, k=None, scale=1.0, layer_norm=False, b_dec_to_input=True, b_enc=0.0):
        g = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=g).float()
        self.weights = {
            "W_enc": draw(F, d_in) * 0.4,
            "b_enc": draw(F) * 0.2 + b_enc,
            "W_dec": draw(F, d_out) * 0.3,
            "b_dec": draw(d_out) * 0.2,
        }
        for name, value in self.weights.items():
            setattr(self, name, value.double())
        self.k, self.scale, self.layer_norm, self.b_dec_to_input = k, scale, layer_norm, b_dec_to_input

    def statistics(self, x):
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True, unbiased=True) + 1e-5

    def encode(self, x):
        if self.layer_norm:
            mean, std = self.statistics(x)
            t = (x - mean) / std
        else:
            t = x * self.scale
        z = (t - self.b_dec if self.b_dec_to_input else t) @ self.W_enc.T + self.b_enc
        a = z.relu()
        if self.k is not None:
            kept = z.topk(self.k, dim=-1)
            a = torch.zeros_like(z).scatter(-1, kept.indices, kept.values.relu())
        return a

    def decode(self, a, x):
        out = a @ self.W_dec + self.b_dec
        if self.layer_norm:
            mean, std = self.statistics(x)
            return out * std + mean
        return out / self.scale


SAES = {
    "scaled": Sae(1, k=6, scale=0.25),
    "layerNorm": Sae(2, k=None, layer_norm=True, b_enc=-4.0),
    "transcoder": Sae(3, k=5, b_dec_to_input=False),
    "crosscoder": Sae(4, d_in=2 * D, d_out=2 * D, k=7),
}
# name of the SAE, what it reads, where it writes
CASES = {
    "residual": ("scaled", ["blocks.1.hook_resid_post"], "blocks.1.hook_resid_post"),
    "last residual": ("scaled", ["blocks.2.hook_resid_post"], "blocks.2.hook_resid_post"),
    "mlp out": ("scaled", ["blocks.1.hook_mlp_out"], "blocks.1.hook_mlp_out"),
    "heads": ("scaled", ["blocks.0.attn.hook_z"], "blocks.0.attn.hook_z"),
    "layer norm": ("layerNorm", ["blocks.0.hook_resid_mid"], "blocks.0.hook_resid_mid"),
    "transcoder": ("transcoder", ["blocks.1.hook_resid_mid"], "blocks.1.hook_mlp_out"),
    "crosscoder": ("crosscoder", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"], "blocks.1.hook_resid_post"),
}


def place(name):
    """The module and the side of it ("input" or "output") where a hook point's value is."""
    _, layer, hook = name.split(".", 2)
    block = model.transformer.h[int(layer)]
    return {
        "hook_resid_mid": (block.ln_2, "input"),
        "hook_resid_post": (block, "output"),
        "hook_mlp_out": (block.mlp, "output"),
        "attn.hook_z": (block.attn.c_proj, "input"),
    }[hook]


def adding(name):
    """Where a value is added so that it reaches what the hook point's value reaches."""
    _, layer, hook = name.split(".", 2)
    # The stream between attention and MLP is nowhere a module's output alone: adding to attention's is the same.
    return (model.transformer.h[int(layer)].attn, "output") if hook == "hook_resid_mid" else place(name)


def run(ids, read=(), add=None, at_last=None):
    """Logits, values at `read`, and the final norm's input. `add`: (hook point, values)."""
    values, handles = {}, []

    def changed(value, delta):
        return (value[0] + delta, *value[1:]) if isinstance(value, tuple) else value + delta

    def keep(name):
        module, side = place(name)
        if side == "input":
            return module.register_forward_pre_hook(lambda m, i: values.__setitem__(name, i[0]))
        return module.register_forward_hook(lambda m, i, o: values.__setitem__(name, o[0] if isinstance(o, tuple) else o))

    if add:
        module, side = adding(add[0])
        if side == "input":
            handles.append(module.register_forward_pre_hook(lambda m, i: (i[0] + add[1], *i[1:])))
        else:
            handles.append(module.register_forward_hook(lambda m, i, o: changed(o, add[1])))
    if at_last is not None:
        handles.append(model.transformer.ln_f.register_forward_pre_hook(lambda m, i: (i[0] + at_last,)))
    handles += [keep(name) for name in read]
    handles.append(model.transformer.ln_f.register_forward_pre_hook(lambda m, i: values.__setitem__("last", i[0])))
    logits = model(ids).logits
    for handle in handles:
        handle.remove()
    return logits, values


def carried(name, delta):
    """What a change at a hook point adds to the residual stream."""
    if name.endswith("attn.hook_z"):
        return delta @ model.transformer.h[int(name.split(".")[1])].attn.c_proj.weight
    return delta


def packed():
    """Rows of CONTEXT tokens, with each token's document (-1 for the beginning-of-sequence token)."""
    stream = []
    for n, text in enumerate(TEXTS):
        stream.append((BOS, -1))
        stream += [(i, n) for i in tokenizer.encode(text, add_special_tokens=False).ids]
    return [stream[i : i + CONTEXT] for i in range(0, len(stream), CONTEXT)]


def head(case, decoded):
    """The part of what the SAE decodes that belongs to where it writes."""
    _, reads, write = CASES[case]
    if len(reads) == 1:
        return decoded
    at = reads.index(write) * D
    return decoded[..., at : at + D]


def ablation(case):
    name, reads, write = CASES[case]
    sae = SAES[name]
    rows = packed()
    clean = []
    for row in rows:
        ids = torch.tensor([[t for t, _ in row]])
        logits, values = run(ids, read=reads)
        x = torch.cat([values[r] for r in reads], dim=-1)
        a = sae.encode(x)
        a[0, [d == -1 for _, d in row]] = 0  # beginning-of-sequence tokens are left as they are
        clean.append((ids, logits.log_softmax(-1)[0], x, a))
    predictions = [
        (r, p, row[p + 1][0], row[p + 1][1])
        for r, row in enumerate(rows)
        for p in range(len(row) - 1)
        if row[p + 1][1] >= 0
    ]
    losses = {(r, p): -clean[r][1][p, t].item() for r, p, t, _ in predictions}
    firings = sum(((a[0] > 0).sum(0) for *_, a in clean), torch.zeros(F))
    order = firings.argsort(descending=True).tolist()
    fires = [f for f in order if firings[f] > 0]
    latents = [fires[0], fires[len(fires) // 3], fires[2 * len(fires) // 3]]
    latents += [f for f in order if firings[f] == 0][:1]
    results = []
    for f in latents:
        effects = {}
        for kind in ("total", "direct"):
            by_document = torch.zeros(len(TEXTS), 4, dtype=torch.float64)
            for r, (ids, was, x, a) in enumerate(clean):
                if not (a[..., f] > 0).any():
                    continue
                without = a.clone()
                without[..., f] = 0
                delta = head(case, sae.decode(without, x) - sae.decode(a, x))
                if kind == "total":
                    logits, _ = run(ids, add=(write, delta))
                else:
                    logits, _ = run(ids, at_last=carried(write, delta))
                now = logits.log_softmax(-1)[0]
                for row, p, token, document in predictions:
                    if row != r:
                        continue
                    loss = -now[p, token].item() - losses[r, p]
                    kl = (was[p].exp() * (was[p] - now[p])).sum().item()
                    fired = float(a[0, p, f] > 0)
                    by_document[document] += torch.tensor([loss * fired, loss, kl * fired, kl])
            effects[kind] = by_document.sum(0).tolist()
        at_firing = sum(1 for r, p, *_ in predictions if clean[r][3][0, p, f] > 0)
        documents = {rows[r][p][1] for r, (*_, a) in enumerate(clean) for p in range(len(rows[r])) if a[0, p, f] > 0}
        results.append(
            {
                "latent": f,
                "firings": int(firings[f]),
                "firingPredictions": at_firing,
                "firingDocuments": len(documents),
                # Sums over the text: Δ loss at firings, Δ loss, KL at firings, KL.
                **effects,
            }
        )
    positions = sum(d >= 0 for row in rows for _, d in row)
    loss = sum(losses.values()) / len(losses)
    return {"positions": positions, "predictions": len(predictions), "loss": loss, "latents": results}


def measured(measure, logits, token, against):
    return {
        "logit": lambda: logits[token],
        "centred": lambda: logits[token] - logits.mean(),
        "logprob": lambda: logits.log_softmax(-1)[token],
        "difference": lambda: logits[token] - logits[against],
    }[measure]()


def attribution(case, measure, position, steps=3):
    name, reads, write = CASES[case]
    sae = SAES[name]
    ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    at = position if position >= 0 else len(ids) + position
    tokens = torch.tensor([[BOS, *ids[: at + 1]]])
    logits, values = run(tokens, read=[*reads, write])
    token, against = logits[0, -1].argsort(descending=True)[:2].tolist()
    m = lambda l: measured(measure, l[0, -1], token, against)
    value = m(logits)
    x = torch.cat([values[r] for r in reads], dim=-1)
    a = sae.encode(x)
    a[0, 0] = 0
    decoded = sae.decode(a, x)
    delta = lambda changed: head(case, sae.decode(changed, x) - decoded)
    total = lambda changed: m(run(tokens, add=(write, delta(changed)))[0])

    def slopes(alpha):
        leaf = (alpha * a).clone().requires_grad_(True)
        total(leaf).backward()
        return leaf.grad * a

    gradient = slopes(1.0)
    integrated = sum(slopes((k + 0.5) / steps) for k in range(steps)) / steps

    # The direct path: the norm's standard deviation and the coefficients of the logits held.
    ln = model.transformer.ln_f
    last = values["last"][0, -1]
    sigma = (last.var(unbiased=False) + ln.eps).sqrt()
    c = torch.autograd.functional.jacobian(lambda l: measured(measure, l, token, against), logits[0, -1])
    linear = lambda r: c @ (model.lm_head.weight @ ((r - r.mean()) / sigma * ln.weight + ln.bias))
    zero = linear(torch.zeros(D, dtype=torch.float64))
    direct = lambda v: (linear(carried(write, v)) - zero).item()

    found = []
    for p, f in (a[0] > 0).nonzero().tolist():
        without = a.clone()
        without[0, p, f] = 0
        entry = {"position": p - 1, "latent": f, "activation": a[0, p, f].item()}
        entry["ablation"] = (value - total(without)).item()
        entry["gradient"] = gradient[0, p, f].item()
        entry["integrated"] = integrated[0, p, f].item()
        if p == tokens.shape[1] - 1:
            change = delta(without)
            entry["direct"] = direct(-change[0, p])
            entry["directAblation"] = (value - m(run(tokens, at_last=carried(write, change))[0])).item()
        found.append(entry)
    nothing = torch.zeros_like(a)
    own = direct((head(case, decoded) - head(case, sae.decode(nothing, x)))[0, -1])
    completeness = {
        "latents": own,
        "decoderBias": direct(head(case, sae.decode(nothing, x))[0, -1]),
        "error": direct((values[write] - head(case, decoded))[0, -1]),
        "rest": (linear(last) - zero).item() - direct(values[write][0, -1]),
        "constant": (zero + (value - c @ logits[0, -1])).item(),
        "value": value.item(),
    }
    probability = logits[0, -1].softmax(-1)[token].item()
    together = {}
    for f in a[0].sum(0).nonzero()[:, 0].tolist()[:5]:
        without = a.clone()
        without[..., f] = 0
        together[f] = (value - total(without)).item()
    return {
        **{"measure": measure, "position": position, "token": token, "against": against},
        **{"probability": probability, "contributions": found, "completeness": completeness},
        **{"together": together, "withoutLatents": total(nothing).item(), "steps": steps},
    }


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    weights = {f"{name}.{key}": value.contiguous() for name, sae in SAES.items() for key, value in sae.weights.items()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file(weights, OUT / "saes.safetensors", metadata=versions)
    cases = {}
    measures = ["centred", "logprob", "difference", "logit"]
    with torch.no_grad():
        for case in CASES:
            cases[case] = {"sae": CASES[case][0], "reads": CASES[case][1], "writes": CASES[case][2]}
            cases[case]["ablation"] = ablation(case)
    for n, case in enumerate(CASES):
        cases[case]["attribution"] = attribution(case, measures[n % 4], -1 if n % 2 == 0 else 4)
        print(case, len(cases[case]["attribution"]["contributions"]), cases[case]["ablation"]["latents"][0])
    expected = {"versions": versions, "texts": TEXTS, "prompt": PROMPT, "context": CONTEXT, "cases": cases}
    (OUT / "expected.json").write_text(json.dumps(rounded(expected), ensure_ascii=False) + "\n")
    assert math.isfinite(cases["residual"]["ablation"]["loss"])
    for path in sorted(OUT.iterdir()):
        print(path, path.stat().st_size)
