"""
SAEDashboard's dashboards of some latents of an SAE over the tokens of a store, timed. Settings as JSON:
store, saes, latents, tokens, hook, threads, model, features. Prints one line of JSON.
"""
import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

settings = json.loads(sys.argv[1])
torch.set_num_threads(settings["threads"])
torch.set_grad_enabled(False)

from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoTokenizer, GPT2LMHeadModel

hf = GPT2LMHeadModel.from_pretrained(settings["model"])
c = hf.config
cfg = HookedTransformerConfig(
    n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head,
    n_heads=c.n_head, d_mlp=c.n_inner or 4 * c.n_embd, d_vocab=c.vocab_size, act_fn="gelu_new",
    eps=c.layer_norm_epsilon, normalization_type="LN", device="cpu", model_name="gpt2-tiny",
)
tokenizer = AutoTokenizer.from_pretrained(settings["model"])
tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = HookedTransformer(cfg, tokenizer=tokenizer)
model.load_and_process_state_dict(
    convert_gpt2_weights(hf, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False
)

shards = sorted((Path(settings["store"]) / "tokens").glob("*.safetensors"))
stream = torch.cat([load_file(path)["tokens"] for path in shards]).long()[: settings["tokens"]]
rows = stream[: len(stream) // 255 * 255].view(-1, 255)
bos = torch.full((len(rows), 1), c.bos_token_id, dtype=torch.long)
tokens = torch.cat([bos, rows], dim=1)

sae = SAE.load_from_disk(str(Path(settings["saes"]) / f"sae-{settings['latents']}"), device="cpu")
# Decoder rows have unit length, so this changes no activation; without it folding is refused.
sae.cfg.rescale_acts_by_decoder_norm = True
features = list(range(settings.get("features", 64)))
began = time.perf_counter()
SaeVisRunner(
    SaeVisConfig(
        hook_point=settings["hook"], features=features, device="cpu", dtype="float32",
        minibatch_size_features=64, minibatch_size_tokens=64, verbose=False,
    )
).run(encoder=sae, model=model, tokens=tokens)
print(json.dumps({
    "version": importlib.metadata.version("sae-dashboard"),
    "features": len(features),
    "tokens": tokens.shape[0] * 255,
    "seconds": time.perf_counter() - began,
    "peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
