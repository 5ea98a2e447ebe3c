"""Values at every hook point, logits and losses of a GPT-2, as Hugging Face transformers computes them.

    python test/oracles/make-gpt2-fixture.py --out test/fixtures/gpt2-tiny
        makes a small random model in three checkpoints (float32; bfloat16 without the "transformer."
        prefix; float16 in shards), a byte-level tokenizer, and the expected values of each.

    python test/oracles/make-gpt2-fixture.py --model models/tiny --out test/fixtures/tiny-parity
        writes only the expected values, of an existing model.

Needs torch, transformers, tokenizers and safetensors; prints the versions it ran with, which are also
kept in each file's metadata.
"""

import argparse
import json
import shutil
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__}

TRAINING_TEXT = """
Once upon a time there was a small fox who lived near the river. The fox was happy, because the
water was cold and the stones were warm. "Where are you going?" asked the bird. "I am going to the
old house," said the fox, "and I am not coming back until the sun is down." The bird laughed and the
fox laughed, and then they went home together. It was three o'clock. There were 12 red apples.
"""

TOKENIZER_CASES = [
    "Once upon a time",
    "The fox's house wasn't  there;\nit was\n\n  gone.\t12 345",
    "",
    " ",
    "   leading and trailing   ",
    "naïve café déjà vu Ångström ß",
    "日本語のテキストと中文",
    "👩‍👩‍👧‍👦 family, 🦊 fox, 🇩🇪 flag, e\u0301 combining",
    "Привет, мир! Ελληνικά עברית العربية",
    "a\u00a0b\u200bc\ufeffd\x00e\x7f\u0085\u2028f",
    "line one\r\nline two\r\n",
    "before<|endoftext|>after",
    "<|endoftext|>",
    "<|endoftex|>",
    "\ufeffstarts with a byte order mark",
    "x" * 40 + "🦊" * 5,
]


def make_tokenizer(folder: Path, vocab_size: int) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING_TEXT], trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    tokenizer.save(str(folder / "tokenizer.json"))
    token = "<|endoftext|>"
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": token, "eos_token": token}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n")

    cases = []
    for text in TOKENIZER_CASES:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        # Offsets of the tokenizers library count code points.
        cases.append({"text": text, "ids": encoding.ids, "offsets": encoding.offsets})
    (folder / "tokenizer-cases.json").write_text(json.dumps(cases) + "\n")


def make_model() -> GPT2LMHeadModel:
    """Random weights, larger than an initialisation's, so that every part matters in the result."""
    config = GPT2Config(
        vocab_size=300,
        n_positions=64,
        n_embd=40,
        n_layer=3,
        n_head=4,
        n_inner=96,
        layer_norm_epsilon=1e-5,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(20240607)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if ".ln_" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "wte" in name or "wpe" in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(1.2 * noise / parameter.shape[0] ** 0.5)
    return model


def run(model: GPT2LMHeadModel, ids: torch.Tensor, hooks: bool = True) -> dict[str, torch.Tensor]:
    """TransformerLens' hook points, read from the modules' inputs and outputs."""
    values: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module, side: str) -> None:
        def hook(_module, inputs, *output):
            value = inputs[0] if side == "input" else output[0]
            value = value[0] if isinstance(value, tuple) else value
            values[name] = value.detach().float().clone().contiguous()

        if side == "input":
            module.register_forward_pre_hook(hook)
        else:
            module.register_forward_hook(hook)

    transformer = model.transformer
    if hooks:
        keep("hook_embed", transformer.wte, "output")
        for i, block in enumerate(transformer.h):
            keep(f"blocks.{i}.hook_resid_pre", block, "input")
            keep(f"blocks.{i}.attn.hook_z", block.attn.c_proj, "input")
            keep(f"blocks.{i}.hook_attn_out", block.attn, "output")
            keep(f"blocks.{i}.hook_resid_mid", block.ln_2, "input")
            keep(f"blocks.{i}.mlp.hook_post", block.mlp.c_proj, "input")
            keep(f"blocks.{i}.hook_mlp_out", block.mlp, "output")
            keep(f"blocks.{i}.hook_resid_post", block, "output")
    with torch.no_grad():
        logits = model(ids).logits.float()
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    log_probabilities = torch.log_softmax(logits[:, :-1], dim=-1)
    values["loss"] = -log_probabilities.gather(-1, ids[:, 1:, None])[..., 0].contiguous()
    values["logits"] = logits.contiguous()
    values["tokens"] = ids.to(torch.int32).contiguous()
    return values


def save(values: dict[str, torch.Tensor], path: Path) -> None:
    save_file(values, path, metadata=VERSIONS)
    largest = max(float(v.abs().max()) for k, v in values.items() if k != "tokens")
    print(f"{path}: {path.stat().st_size} bytes, largest value {largest:.1f}")


def make_random(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    model = make_model()
    ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    for folder in ("f32", "bf16", "f16-shards"):
        (out / folder).mkdir(parents=True)

    model.save_pretrained(out / "f32")
    make_tokenizer(out / "f32", 300)
    save(run(model, ids), out / "f32" / "expected.safetensors")

    # The same weights rounded; the expected values are those of a float32 run on the rounded weights.
    for dtype, folder in ((torch.bfloat16, "bf16"), (torch.float16, "f16-shards")):
        rounded = make_model().to(dtype)
        if folder == "bf16":
            rounded.transformer.save_pretrained(out / folder)  # names without "transformer."
        else:
            rounded.save_pretrained(out / folder, max_shard_size="60KB")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(out / "f32" / name, out / folder / name)
        values = run(rounded.float(), ids, hooks=False)
        save(values, out / folder / "expected.safetensors")

    # Settings of config.json that change the computation: only the logits of each.
    variants = {
        "gelu": {"activation_function": "gelu"},
        "relu": {"activation_function": "relu"},
        "silu": {"activation_function": "silu"},
        "unscaled": {"scale_attn_weights": False},
        "inverse-layer": {"scale_attn_by_inverse_layer_idx": True},
        "epsilon": {"layer_norm_epsilon": 0.1},
    }
    logits = {"tokens": ids[:1].to(torch.int32).contiguous()}
    for name, settings in variants.items():
        config = GPT2Config.from_pretrained(out / "f32")
        for key, value in settings.items():
            setattr(config, key, value)
        changed = GPT2LMHeadModel(config).eval()
        changed.load_state_dict(model.state_dict())
        logits[name] = run(changed, ids[:1], hooks=False)["logits"][:, -1].contiguous()
    (out / "variants.json").write_text(json.dumps(variants) + "\n")
    save(logits, out / "variants.safetensors")


def read_existing(model_folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    texts = [
        "Once upon a time there was a small dog who could not sleep.",
        "She asked her friend: where did the red ball go yesterday?",
    ]
    rows = [tokenizer.encode(text, add_special_tokens=False).ids[:4] for text in texts]
    bos = model.config.bos_token_id
    save(run(model, torch.tensor([[bos, *row] for row in rows])), out / "expected.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="an existing model's folder")
    arguments = parser.parse_args()
    print(VERSIONS)
    if arguments.model:
        read_existing(arguments.model, arguments.out)
    else:
        make_random(arguments.out)
