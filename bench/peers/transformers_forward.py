"""Hugging Face transformers' forward pass up to the end of a layer; settings as in lens/forward.mjs, and
`mode`: eager, sdpa, or compile (torch.compile of sdpa). With `make` it writes a random GPT-2 small instead."""

import torch
import transformers
from common import answer, serve, settings
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

if settings.get("make"):
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(settings["make"])
    answer({"transformers": transformers.__version__, "torch": torch.__version__})
else:
    mode = settings["mode"]
    attention = "eager" if mode == "eager" else "sdpa"
    model = GPT2Model.from_pretrained(
        settings["folder"], dtype=torch.float32, attn_implementation=attention).eval()
    model.h = model.h[: settings["layers"]]
    model.ln_f = torch.nn.Identity()
    run = torch.compile(model) if mode == "compile" else model
    batch, length = settings["batch"], settings["length"]
    tokens = torch.tensor([(i * 7919) % 50_000 for i in range(batch * length)]).reshape(batch, length)

    @torch.inference_mode()
    def step():
        return {"first": float(run(tokens, use_cache=False).last_hidden_state[0, 0, 0])}

    serve(step, {"transformers": transformers.__version__})
