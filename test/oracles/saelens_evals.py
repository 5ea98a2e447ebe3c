"""SAELens' run_evals and `lens eval` on one SAE and the same rows of tokens, number by number.

    lens eval RUN --json > lens.json
    lens corpus --split test --count 400 --json > texts.jsonl
    python test/oracles/saelens_evals.py models/tiny RUN/sae lens.json texts.jsonl

Prints the table of docs/metrics.md. Each difference is explained by computing, per position and apart
from both, the same quantity under each rule: `Lens by the other's rule` is that of SAELens' definition and
must be SAELens' number; the script fails when it is not, or when Lens' own rule does not give Lens' number.
Needs torch, transformers, sae-lens, transformer-lens, tokenizers.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from sae_lens import SAE
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

MODEL, FOLDER, LENS, TEXTS = (Path(p) for p in sys.argv[1:5])
BATCH = 16
lens = json.loads(LENS.read_text())
hf = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
c = hf.config
cfg = HookedTransformerConfig(
    **dict(n_layers=c.n_layer, d_model=c.n_embd, n_heads=c.n_head, d_head=c.n_embd // c.n_head, d_vocab=c.vocab_size),
    **dict(n_ctx=c.n_positions, act_fn="gelu_new", normalization_type="LN", eps=c.layer_norm_epsilon),
    **dict(attn_only=False, device="cpu", seed=0, original_architecture="GPT2LMHeadModel"),
)
model = HookedTransformer(cfg)
plain = dict(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
model.load_and_process_state_dict(convert_gpt2_weights(hf, cfg), **plain)
sae = SAE.load_from_disk(str(FOLDER))
hook = sae.cfg.metadata.hook_name
BOS, context = c.bos_token_id, lens["circumstances"]["contextLength"]

# --- the rows that Lens reads: BOS before every document, cut at the context, until the positions are reached ---
tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
stream = []
for line in TEXTS.read_text().splitlines():
    stream += [BOS] + tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
rows, positions = [], 0
while positions < lens["coverage"]["positions"]:
    row = torch.tensor(stream[len(rows) * context : (len(rows) + 1) * context])
    assert len(row) == context, "give more texts"
    rows.append(row)
    positions += int((row != BOS).sum())
assert positions == lens["coverage"]["positions"], (positions, lens["coverage"])
tokens = torch.stack(rows)


class Rows:
    """Stands in for SAELens' store of activations."""

    store_batch_size_prompts, context_size = BATCH, context

    def __init__(self):
        self.at = 0

    def get_batch_tokens(self, size):
        batch = tokens[self.at : self.at + size]
        self.at += size
        return batch

    def reset_input_dataset(self):
        self.at = 0


batches = -(-len(tokens) // BATCH)
everything = get_eval_everything_config(BATCH, batches, batches)
theirs, features = run_evals(sae, Rows(), model, ActivationScaler(), everything, exclude_special_tokens=[BOS])

# --- per position, apart from both ---
P = {name: [] for name in ("clean", "sae", "zero", "zero_all", "kl_sae", "kl_zero", "kl_zero_all")}
X, OUT, A = [], [], []
with torch.no_grad():
    for start in range(0, len(tokens), BATCH):
        batch = tokens[start : start + BATCH]
        keep = (batch != BOS)[..., None]
        seen = {}

        def run(replace=None):
            def replaced(value, hook):
                seen.setdefault("x", value.clone())
                return value if replace is None else replace(value)

            return model.run_with_hooks(batch, fwd_hooks=[(hook, replaced)]).double().log_softmax(-1)

        log_p = run()
        nll = lambda lp: -lp[:, :-1].gather(2, batch[:, 1:, None])[..., 0]
        P["clean"].append(nll(log_p))
        for name, replace in {
            "sae": lambda v: torch.where(keep, sae(v), v),
            "zero": lambda v: torch.where(keep, torch.zeros_like(v), v),
            "zero_all": torch.zeros_like,
        }.items():
            log_q = run(replace)
            P[name].append(nll(log_q))
            P[f"kl_{name}"].append((log_p.exp() * (log_p - log_q)).sum(-1))
        x = seen["x"][batch != BOS]
        X.append(x.double())
        A.append(sae.encode(x).double())
        OUT.append(sae(x).double())
P = {name: torch.cat(v) for name, v in P.items()}
sizes = [len(v) for v in X]
x, out, a = torch.cat(X), torch.cat(OUT), torch.cat(A)
e = x - out
of_text = tokens[:, 1:] != BOS  # Lens: the predicted token is one of the text
from_text = tokens != BOS  # SAELens: the token that predicts is one of the text
ours = lambda name: (P[name][:, : tokens.shape[1] - 1][of_text]).mean().item()
its = lambda name: P[name][from_text[:, : P[name].shape[1]]].mean().item()
batchwise = lambda value: sum(value(xs, os) for xs, os in zip(x.split(sizes), out.split(sizes)))
legacy = lambda xs, os: (1 - (xs - os).pow(2).sum(1) / (xs - xs.mean(0)).pow(2).sum(1)).sum().item()
bias = lambda xs, os: (os.pow(2).sum(1).mean() / (xs * os).sum(1).mean()).item()
spread = (x - x.mean(0)).pow(2).sum(1)

r = {name: v["value"] for name, v in lens["reconstruction"].items()}
(p,) = lens["predictions"].values()
p = {name: v["value"] for name, v in p.items()}
quality, shrinkage, sparsity = theirs["reconstruction_quality"], theirs["shrinkage"], theirs["sparsity"]
ce, kl = theirs["model_performance_preservation"], theirs["model_behavior_preservation"]
same = "the same formula"
predicting = "SAELens counts by the token that predicts (none after BOS, BOS itself predicted), Lens by the token predicted"
all_zero = predicting + "; SAELens' ablation also replaces BOS positions"
score = lambda clean, s, z: (z - s) / (z - clean)
# metric, SAELens, Lens, Lens' rule here, SAELens' rule here, reason
table = [
    ("l0", sparsity["l0"], r["l0"], (a > 0).sum(1).double().mean().item(), (a != 0).sum(1).double().mean().item(), same),
    ("l1", sparsity["l1"], r["l1"], a.sum(1).mean().item(), a.abs().sum(1).mean().item(), same),
    ("mse", quality["mse"], r["mse"], e.pow(2).mean().item(), e.pow(2).sum(1).mean().item(), "SAELens adds over the d dimensions, Lens takes their mean: times d"),
    ("explained_variance | 1 − fvu", quality["explained_variance"], 1 - r["fvu"], 1 - (e.pow(2).sum() / spread.sum()).item(), 1 - (e.pow(2).sum() / spread.sum()).item(), same),
    ("explained_variance_legacy | 1 − fvuLegacy", quality["explained_variance_legacy"], 1 - r["fvuLegacy"], 1 - (e.pow(2).sum(1) / spread).mean().item(), batchwise(legacy) / len(x), "SAELens takes the mean activation of each batch, Lens that of the whole text"),
    ("cossim | cosine", quality["cossim"], r["cosine"], F.cosine_similarity(x, out).mean().item(), F.cosine_similarity(x, out).mean().item(), same),
    ("l2_ratio | normRatio", shrinkage["l2_ratio"], r["normRatio"], (out.norm(dim=1) / x.norm(dim=1)).mean().item(), (out.norm(dim=1) / x.norm(dim=1)).mean().item(), same),
    ("relative_reconstruction_bias", shrinkage["relative_reconstruction_bias"], r["relativeReconstructionBias"], (out.pow(2).sum() / (x * out).sum()).item(), batchwise(bias) / len(sizes), "SAELens takes the mean of the batches' ratios"),
    ("ce_loss_without_sae | ceClean", ce["ce_loss_without_sae"], p["ceClean"], ours("clean"), its("clean"), predicting),
    ("ce_loss_with_sae | ceSae", ce["ce_loss_with_sae"], p["ceSae"], ours("sae"), its("sae"), predicting),
    ("ce_loss_with_ablation | ceZero", ce["ce_loss_with_ablation"], p["ceZero"], ours("zero"), its("zero_all"), all_zero),
    ("ce_loss_score | ceLossRecovered", ce["ce_loss_score"], p["ceLossRecovered"], score(ours("clean"), ours("sae"), ours("zero")), score(its("clean"), its("sae"), its("zero_all")), "from the three above"),
    ("kl_div_with_sae | klSae", kl["kl_div_with_sae"], p["klSae"], ours("kl_sae"), its("kl_sae"), predicting + "; SAELens also counts each row's last position"),
    ("kl_div_with_ablation | klZero", kl["kl_div_with_ablation"], p["klZero"], ours("kl_zero"), its("kl_zero_all"), "as klSae; SAELens' ablation also replaces BOS positions"),
    ("kl_div_score | klRecovered", kl["kl_div_score"], p["klRecovered"], 1 - ours("kl_sae") / ours("kl_zero"), 1 - its("kl_sae") / its("kl_zero_all"), "from the two above"),
]
density = torch.tensor(features["feature_density"], dtype=torch.float64)
q = lens["density"]["spread"]
table.append(("feature_density (median)", density.quantile(0.5).item(), q["median"], (a > 0).double().mean(0).quantile(0.5).item(), (a != 0).double().mean(0).quantile(0.5).item(), same))
g = torch.tensor(features["encoder_decoder_cosine_sim"], dtype=torch.float64)
w = F.cosine_similarity(sae.W_dec.double(), sae.W_enc.T.double()).quantile(0.5).item()
table.append(("encoder_decoder_cosine_sim (median)", g.quantile(0.5).item(), lens["geometry"]["encoderDecoderCosine"]["median"], w, w, same))
n = torch.tensor(features["encoder_norm"], dtype=torch.float64)
w = sae.W_enc.double().norm(dim=0).quantile(0.5).item()
table.append(("encoder_norm (median)", n.quantile(0.5).item(), lens["geometry"]["encoderNorm"]["median"], w, w, same))

print(f"sae-lens {importlib.metadata.version('sae-lens')}, transformer-lens {importlib.metadata.version('transformer-lens')}, torch {torch.__version__}; {len(rows)} rows of {context}, {positions} positions; batches of {BATCH} rows\n", file=sys.stderr)
print("| SAELens \\| Lens | SAELens | Lens | Lens by SAELens' rule | why |\n| --- | --- | --- | --- | --- |")
worst = 0.0
for name, other, own, mine, rule, why in table:
    name = name.replace(" | ", " \\| ")
    print(f"| {name} | {other:.6g} | {own:.6g} | {rule:.6g} | {why} |")
    worst = max(worst, abs(mine - own) / abs(own), abs(rule - other) / abs(other))
print(f"\nlargest relative difference left: {worst:.1e}", file=sys.stderr)
assert worst < 1e-5, worst
