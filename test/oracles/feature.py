"""What a latent does to the logits, which latents are near each other, and how good a 2-D map is, by
independent implementations; writes test/fixtures/feature/, which test/feature-numbers.test.ts compares with.

    python test/oracles/feature.py

Logit effects: TransformerLens' own conversion and processing of the model in test/fixtures/gpt2-tiny/f32
(from_hf without processing for `raw`; fold_ln with and without centring for the others), moments by
scipy.stats, histogram by numpy. Changes in real contexts: Hugging Face transformers with forward hooks.
Neighbours: numpy on dense 0/1 matrices. Trustworthiness: scikit-learn.
"""

import json
import pathlib

import numpy as np
import scipy.stats
import torch
from safetensors.torch import save_file
from sklearn.manifold import trustworthiness
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

root = pathlib.Path(__file__).parent.parent / "fixtures"
out = root / "feature"
out.mkdir(exist_ok=True)
torch.manual_seed(7)
rng = np.random.default_rng(7)

hf = GPT2LMHeadModel.from_pretrained(root / "gpt2-tiny" / "f32").eval()
c = hf.config
cfg = HookedTransformerConfig(
    n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head,
    n_heads=c.n_head, d_mlp=c.n_inner, d_vocab=c.vocab_size, act_fn="gelu_new",
    normalization_type="LN", eps=c.layer_norm_epsilon, original_architecture="GPT2LMHeadModel",
)


def hooked(**processing):
    model = HookedTransformer(cfg)
    state = {k: v.detach().clone() for k, v in convert_gpt2_weights(hf, cfg).items()}
    model.load_and_process_state_dict(state, fold_value_biases=False, **processing)
    return model


# The unembedding is as it is, has the gain folded in, or is also centred on both sides.
off = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False}
raw = hooked(**off)
centred = hooked(**{**off, "fold_ln": True, "center_unembed": True})
gain = hf.transformer.ln_f.weight.detach()
W_U = {"raw": raw.W_U, "folded": gain[:, None] * raw.W_U, "centred": centred.W_U}

LATENTS = 2
tensors, expected = {}, {"effects": {}}
for hook, width in [("blocks.1.hook_resid_post", 40), ("blocks.1.mlp.hook_post", 96), ("blocks.2.attn.hook_z", 40)]:
    W_dec = torch.randn(LATENTS, width)
    layer = int(hook.split(".")[1])
    carry = {
        "hook_post": lambda: raw.W_out[layer],
        "hook_z": lambda: raw.W_O[layer].reshape(-1, 40),
    }.get(hook.split(".")[-1])
    tensors[f"W_dec {hook}"] = W_dec
    for form, unembed in W_U.items():
        effects = (W_dec.double() @ carry().detach().double() if carry else W_dec.double()) @ unembed.detach().double()
        tensors[f"{form} {hook}"] = effects.float()
        expected["effects"][f"{form} {hook}"] = [
            {
                "mean": float(np.mean(e)),
                "std": float(np.std(e)),
                "skewness": float(scipy.stats.skew(e)),
                "excessKurtosis": float(scipy.stats.kurtosis(e)),
                "counts": np.histogram(e, bins=50)[0].tolist(),
                "top": np.argsort(-e, kind="stable")[:10].tolist(),
                "bottom": np.argsort(e, kind="stable")[:10].tolist(),
            }
            for e in effects.numpy()
        ]

# Changes of the logits at the last position when something is added there.
modules = {
    "blocks.0.hook_resid_post": hf.transformer.h[0],
    "blocks.1.hook_mlp_out": hf.transformer.h[1].mlp,
}
for hook, module in modules.items():
    for i, length in enumerate([1, 5, 17]):
        tokens = torch.randint(0, c.vocab_size, (1, length))
        delta = torch.randn(40)

        def add(_module, _inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            value = value.clone()
            value[0, -1] += delta
            return (value, *output[1:]) if isinstance(output, tuple) else value

        with torch.no_grad():
            clean = hf(tokens).logits[0, -1].double()
            handle = module.register_forward_hook(add)
            changed = hf(tokens).logits[0, -1].double()
            handle.remove()
        tensors[f"tokens {hook} {i}"] = tokens[0].int()
        tensors[f"delta {hook} {i}"] = delta
        tensors[f"change {hook} {i}"] = (changed - clean).float()

# Neighbours: directions with near-copies among them, and which latents fire where.
n, d, positions = 40, 12, 3000
W = rng.normal(size=(n, d)).astype(np.float32)
W[30:] = W[:10] + 0.2 * rng.normal(size=(10, d)).astype(np.float32)
W[7] = 0
rate = rng.uniform(0.002, 0.1, size=n)
fires = rng.uniform(size=(positions, n)) < rate
fires[:, 35] |= fires[:, 5] & (rng.uniform(size=positions) < 0.8)
fires[:, 20] = False
tensors["directions"] = torch.from_numpy(W)
row, column = np.nonzero(fires)
tensors["row"] = torch.from_numpy(row.astype(np.int32))
tensors["column"] = torch.from_numpy(column.astype(np.int32))
norms = np.linalg.norm(W.astype(np.float64), axis=1, keepdims=True)
unit = np.divide(W.astype(np.float64), norms, out=np.zeros((n, d)), where=norms > 0)
tensors["cosines"] = torch.from_numpy((unit @ unit.T).astype(np.float32))
f = fires.astype(np.float64)
together = f.T @ f
count = f.sum(0)
a, b = count[:, None], count[None, :]
with np.errstate(divide="ignore", invalid="ignore"):
    pmi = np.log2(together * positions / (a * b))
    jaccard = together / (a + b - together)
    phi = np.nan_to_num(np.corrcoef(f.T))
tensors["together"] = torch.from_numpy(together.astype(np.int32))
for name, values in [("pmi", pmi), ("jaccard", jaccard), ("phi", phi)]:
    tensors[name] = torch.from_numpy(np.nan_to_num(values, neginf=-1e9, posinf=1e9).astype(np.float32))

# A map: nearness in the plane that is partly right.
places = (W[:, :2] + 0.5 * rng.normal(size=(n, 2))).astype(np.float32)
kept = [i for i in range(n) if i != 7]
tensors["places"] = torch.from_numpy(places)
expected["trustworthiness"] = {
    str(k): float(trustworthiness(W[kept].astype(np.float64), places[kept].astype(np.float64), n_neighbors=k, metric="cosine"))
    for k in (5, 12)
}

save_file(tensors, out / "expected.safetensors")
(out / "expected.json").write_text(json.dumps(expected) + "\n")
print({k: round(v, 4) for k, v in expected["trustworthiness"].items()}, sum(p.stat().st_size for p in out.iterdir()), "bytes")
