"""Tiny random models of every family, with the values at every hook point, logits and losses that
Hugging Face transformers computes for them.

    python test/oracles/make-family-fixtures.py --out test/fixtures/families

Each folder has config.json, model.safetensors and expected.safetensors; the tokenizer of
test/fixtures/gpt2-tiny goes with all of them. Settings are such that every trap of a family matters:
windows shorter than the text, fewer key heads than query heads, positions that are scaled.
Needs torch, transformers and safetensors; their versions are kept in each file's metadata.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__}
VOCABULARY, LENGTH = 300, 14

common = dict(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0)
llama = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, **common,
)
gemma = dict(llama, head_dim=12, hidden_activation="gelu_pytorch_tanh")
FAMILIES = {
    "gpt2": ("gpt2", dict(
        n_embd=32, n_inner=48, n_layer=2, n_head=4, n_positions=64,
        scale_attn_by_inverse_layer_idx=True, **common)),
    "gpt_neo": ("gpt_neo", dict(
        hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]], window_size=4, **common)),
    "opt": ("opt", dict(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32, **dict(common, pad_token_id=1))),
    "gpt_neox": ("gpt_neox", dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, rotary_pct=0.25, **common)),
    "gpt_neox-sequential": ("gpt_neox", dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, use_parallel_residual=False, tie_word_embeddings=True, **common)),
    "llama": ("llama", llama),
    "llama3": ("llama", dict(llama, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=50.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16))),
    "llama-biased": ("llama", dict(
        llama, attention_bias=True, mlp_bias=True, head_dim=10,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "mistral": ("mistral", dict(llama, sliding_window=5)),
    "smollm3": ("smollm3", dict(llama, num_hidden_layers=4, no_rope_layer_interval=2)),
    "qwen2": ("qwen2", dict(
        llama, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": ("qwen3", dict(llama, head_dim=12)),
    "gemma": ("gemma", gemma),
    "gemma2": ("gemma2", dict(
        gemma, sliding_window=5, query_pre_attn_scalar=20, attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0)),
    "gemma3_text": ("gemma3_text", dict(
        gemma, num_hidden_layers=3, sliding_window=5, query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=100.0),
            full_attention=dict(rope_type="linear", rope_theta=1000.0, factor=8.0)))),
    # Stored in 16 bits; the values are those of a float32 run on the rounded weights.
    "gemma2-bf16": ("gemma2", dict(gemma, sliding_window=5, query_pre_attn_scalar=20)),
    "gpt_neox-f16": ("gpt_neox", dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, **common)),
}
bert = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=64, vocab_size=VOCABULARY)
ENCODERS = {
    "bert": ("bert", bert),
    # Without what predicts masked tokens, and under the names of checkpoints that were made from TensorFlow's.
    "bert-bare": ("bert", bert),
    "distilbert": ("distilbert", dict(
        dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64,
        vocab_size=VOCABULARY)),
}
STORED = {"bf16": torch.bfloat16, "f16": torch.float16}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Larger than an initialisation's, so that every part matters in the result."""
    generator = torch.Generator().manual_seed(20261127)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() or ".ln_" in name
            if is_norm and name.endswith("weight"):
                # Gemma's gain is 1 + weight.
                parameter.copy_(("gemma" not in model.config.model_type) + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.shape[0] >= VOCABULARY or "embed_positions" in name or "wpe" in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(1.2 * noise / parameter.shape[1] ** 0.5)
    return model.eval()


def parts_of(model):
    """The modules that hook points are read from: embedding, blocks, last norm, and of a block what it names."""
    kind = model.config.model_type
    if kind == "gpt2":
        body = model.transformer
        return body.wte, body.h, body.ln_f, lambda b: dict(
            ln1=b.ln_1, qkv=b.attn.c_attn, out=b.attn.c_proj, attn=b.attn, ln2=b.ln_2,
            up=b.mlp.c_fc, down=b.mlp.c_proj, mlp=b.mlp)
    if kind == "gpt_neo":
        body = model.transformer
        return body.wte, body.h, body.ln_f, lambda b: dict(
            ln1=b.ln_1, q=b.attn.attention.q_proj, k=b.attn.attention.k_proj,
            v=b.attn.attention.v_proj, out=b.attn.attention.out_proj, attn=b.attn, ln2=b.ln_2,
            up=b.mlp.c_fc, down=b.mlp.c_proj, mlp=b.mlp)
    if kind == "opt":
        body = model.model.decoder
        return body.embed_tokens, body.layers, body.final_layer_norm, lambda b: dict(
            ln1=b.self_attn_layer_norm, q=b.self_attn.q_proj, k=b.self_attn.k_proj,
            v=b.self_attn.v_proj, out=b.self_attn.out_proj, attn=b.self_attn,
            ln2=b.final_layer_norm, up=b.fc1, down=b.fc2, mlp=b.fc2)
    if kind == "gpt_neox":
        body = model.gpt_neox
        return body.embed_in, body.layers, body.final_layer_norm, lambda b: dict(
            ln1=b.input_layernorm, qkv=b.attention.query_key_value, out=b.attention.dense,
            attn=b.attention, ln2=b.post_attention_layernorm, up=b.mlp.dense_h_to_4h,
            down=b.mlp.dense_4h_to_h, mlp=b.mlp)
    body = model.model
    has_post_norms = kind in ("gemma2", "gemma3_text")
    return body.embed_tokens, body.layers, body.norm, lambda b: dict(
        ln1=b.input_layernorm, q=b.self_attn.q_proj, k=b.self_attn.k_proj, v=b.self_attn.v_proj,
        out=b.self_attn.o_proj, attn=b.post_attention_layernorm if has_post_norms else b.self_attn,
        ln2=b.pre_feedforward_layernorm if has_post_norms else b.post_attention_layernorm,
        gate=b.mlp.gate_proj, up=b.mlp.up_proj, down=b.mlp.down_proj,
        mlp=b.post_feedforward_layernorm if has_post_norms else b.mlp)


def encoder_parts_of(body):
    """The same of an encoder, whose norms stand behind the sums."""
    if body.config.model_type == "distilbert":
        return body.embeddings, body.transformer.layer, lambda b: dict(
            q=b.attention.q_lin, k=b.attention.k_lin, v=b.attention.v_lin, attn=b.attention.out_lin,
            ln1=b.sa_layer_norm, up=b.ffn.lin1, mlp=b.ffn.lin2, ln2=b.output_layer_norm)
    return body.embeddings, body.encoder.layer, lambda b: dict(
        q=b.attention.self.query, k=b.attention.self.key, v=b.attention.self.value,
        attn=b.attention.output.dense, ln1=b.attention.output.LayerNorm, up=b.intermediate.dense,
        mlp=b.output.dense, ln2=b.output.LayerNorm)


def normalized(norm: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A norm's scale and what it makes of x, before gain and bias, by its definition."""
    if isinstance(norm, torch.nn.LayerNorm):
        centred = x - x.mean(-1, keepdim=True)
        epsilon = norm.eps
    else:
        centred = x
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    scale = (centred.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    return scale, centred / scale


class Kept:
    """Values by their names, put there by hooks on modules."""

    def __init__(self, ids: torch.Tensor):
        self.ids = ids
        self.values: dict[str, torch.Tensor] = {}

    def put(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().float().reshape(*self.ids.shape, -1)
        self.values[name] = value.clone().contiguous()

    def on(self, module: torch.nn.Module, side: str, use) -> None:
        def hook(_module, inputs, *output):
            value = inputs[0] if side == "input" else output[0]
            use(value[0] if isinstance(value, tuple) else value)

        if side == "input":
            module.register_forward_pre_hook(hook)
        else:
            module.register_forward_hook(hook)

    def keep(self, name: str, module: torch.nn.Module, side: str) -> None:
        self.on(module, side, lambda value: self.put(name, value))

    def keep_norm(self, name: str, norm: torch.nn.Module) -> None:
        def use(x):
            scale, value = normalized(norm, x.float())
            self.put(f"{name}.hook_scale", scale)
            self.put(f"{name}.hook_normalized", value)

        self.on(norm, "input", use)


def without_hooks(model) -> None:
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


def run_encoder(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    # The second row has padding.
    lengths = torch.tensor([LENGTH, 9])
    mask = (torch.arange(LENGTH)[None] < lengths[:, None]).long()
    with torch.no_grad():
        padded = model(ids, attention_mask=mask, output_hidden_states=True)
    kept = Kept(ids)
    embeddings, blocks, parts = encoder_parts_of(getattr(model, model.base_model_prefix, model))
    kept.keep("hook_embed", embeddings.word_embeddings, "output")
    kept.keep("hook_full_embed", embeddings, "output")
    for i, block in enumerate(blocks):
        part = parts(block)
        kept.keep(f"blocks.{i}.hook_resid_pre", block, "input")
        for name in "qkv":
            kept.keep(f"blocks.{i}.attn.hook_{name}", part[name], "output")
        kept.keep(f"blocks.{i}.attn.hook_z", part["attn"], "input")
        kept.keep(f"blocks.{i}.hook_attn_out", part["attn"], "output")
        kept.keep(f"blocks.{i}.hook_resid_mid", part["ln1"], "input")
        kept.keep_norm(f"blocks.{i}.ln1", part["ln1"])
        kept.keep(f"blocks.{i}.mlp.hook_pre", part["up"], "output")
        kept.keep(f"blocks.{i}.mlp.hook_post", part["mlp"], "input")
        kept.keep(f"blocks.{i}.hook_mlp_out", part["mlp"], "output")
        kept.keep(f"blocks.{i}.hook_resid_post", part["ln2"], "input")
        kept.keep_norm(f"blocks.{i}.ln2", part["ln2"])
        kept.keep(f"blocks.{i}.hook_normalized_resid_post", block, "output")
    with torch.no_grad():
        output = model(ids, output_attentions=True, output_hidden_states=True)
    without_hooks(model)
    values = kept.values
    for i, pattern in enumerate(output.attentions):
        values[f"blocks.{i}.attn.hook_pattern"] = pattern.contiguous()
        assert torch.equal(output.hidden_states[i + 1], values[f"blocks.{i}.hook_normalized_resid_post"])
    if "logits" in output:
        values["logits"] = output.logits.contiguous()
    values["padded"] = (padded.hidden_states[-1] * mask[..., None]).contiguous()
    values["lengths"] = lengths.to(torch.int32)
    values["tokens"] = ids.to(torch.int32).contiguous()
    return values


def run(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """TransformerLens' hook points, read from the modules' inputs and outputs."""
    kept = Kept(ids)
    values, put, keep = kept.values, kept.put, kept.keep

    def keep_joined(i: int, module: torch.nn.Module) -> None:
        def use(value):
            if model.config.model_type == "gpt_neox":
                by_head = value.reshape(*ids.shape, model.config.num_attention_heads, 3, -1)
                parts = [by_head[..., n, :] for n in range(3)]
            else:
                parts = value.chunk(3, dim=-1)
            for name, part in zip("qkv", parts):
                put(f"blocks.{i}.attn.hook_{name}", part)

        kept.on(module, "output", use)

    embedding, blocks, last_norm, parts = parts_of(model)
    # Gemma's embedding is scaled by the time that it enters the first block.
    is_scaled = "gemma" in model.config.model_type
    keep("hook_embed", blocks[0] if is_scaled else embedding, "input" if is_scaled else "output")
    kept.keep_norm("ln_final", last_norm)
    is_parallel = getattr(model.config, "use_parallel_residual", False)
    for i, block in enumerate(blocks):
        part = parts(block)
        keep(f"blocks.{i}.hook_resid_pre", block, "input")
        kept.keep_norm(f"blocks.{i}.ln1", part["ln1"])
        if "qkv" in part:
            keep_joined(i, part["qkv"])
        else:
            for name in "qkv":
                keep(f"blocks.{i}.attn.hook_{name}", part[name], "output")
        keep(f"blocks.{i}.attn.hook_z", part["out"], "input")
        keep(f"blocks.{i}.hook_attn_out", part["attn"], "output")
        if not is_parallel:
            keep(f"blocks.{i}.hook_resid_mid", part["ln2"], "input")
        kept.keep_norm(f"blocks.{i}.ln2", part["ln2"])
        keep(f"blocks.{i}.mlp.hook_pre", part.get("gate", part["up"]), "output")
        if "gate" in part:
            keep(f"blocks.{i}.mlp.hook_pre_linear", part["up"], "output")
        keep(f"blocks.{i}.mlp.hook_post", part["down"], "input")
        keep(f"blocks.{i}.hook_mlp_out", part["mlp"], "output")
        keep(f"blocks.{i}.hook_resid_post", block, "output")

    # What enters the scores, turned where positions turn.
    modelling = sys.modules[type(model).__module__]
    attention = getattr(modelling, "eager_attention_forward", None)
    is_rotary = hasattr(modelling, "apply_rotary_pos_emb")

    def watched(module, query, key, *arguments, **settings):
        for name, value in (("q", query), ("k", key)):
            put(f"blocks.{module.layer_idx}.attn.hook_rot_{name}", value.transpose(1, 2))
        return attention(module, query, key, *arguments, **settings)

    if is_rotary:
        modelling.eager_attention_forward = watched
    with torch.no_grad():
        output = model(ids, use_cache=False, output_attentions=True)
    logits = output.logits.float()
    for i, pattern in enumerate(output.attentions):
        values[f"blocks.{i}.attn.hook_pattern"] = pattern.float().contiguous()
    if is_rotary:
        modelling.eager_attention_forward = attention
    without_hooks(model)
    # By whole passes: what a cache gives is what is tested.
    written = ids[:1, :5]
    with torch.no_grad():
        for _ in range(16):
            following = model(written, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            written = torch.cat([written, following], dim=1)
    log_probabilities = torch.log_softmax(logits[:, :-1], dim=-1)
    values["loss"] = -log_probabilities.gather(-1, ids[:, 1:, None])[..., 0].contiguous()
    values["logits"] = logits.contiguous()
    values["tokens"] = ids.to(torch.int32).contiguous()
    values["generated"] = written[0].to(torch.int32).contiguous()
    return values


def make(out: Path, name: str) -> None:
    kind, settings = (FAMILIES | ENCODERS)[name]
    is_encoder, is_bare = name in ENCODERS, name == "bert-bare"
    auto = AutoModel if is_bare else AutoModelForMaskedLM if is_encoder else AutoModelForCausalLM
    config = AutoConfig.for_model(kind, **settings)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = randomised(auto.from_config(config, attn_implementation="eager"))
    ids = torch.randint(2, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(STORED.get(name.split("-")[-1], torch.float32)).save_pretrained(folder)
    if "-" in name and name.split("-")[-1] in STORED:
        # Read anew: what is no weight, Gemma's scale of the embedding, is not rounded then.
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
    (folder / "generation_config.json").unlink(missing_ok=True)
    if is_bare:
        path = folder / "model.safetensors"
        old = {
            re.sub("LayerNorm.weight$", "LayerNorm.gamma", re.sub("LayerNorm.bias$", "LayerNorm.beta", key)): value
            for key, value in load_file(path).items()
            if not key.startswith("pooler")
        }
        save_file(old, path, metadata={"format": "pt"})
    values = run_encoder(model, ids) if is_encoder else run(model, ids)
    save_file(values, folder / "expected.safetensors", metadata=VERSIONS)
    largest = max(float(v.abs().max()) for k, v in values.items() if "hook" in k)
    print(f"{name}: {len(values)} values, largest at a hook point {largest:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(json.dumps(VERSIONS))
    for name in FAMILIES | ENCODERS:
        make(arguments.out, name)
