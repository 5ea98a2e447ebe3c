"""Trains the built-in language model, models/tiny: GPT-2 architecture, on the built-in corpus.

usage: python train.py TRAIN.jsonl VALIDATION.jsonl MODEL_FOLDER --minutes 45 [--dtype bf16]
       python train.py ... --steps 5000
MODEL_FOLDER holds tokenizer.json (tokenizer.py). The learning rate follows the share of the steps,
or of the minutes, that is over. Every document is preceded by <|endoftext|>.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

CONTEXT = 256
BATCH = 8
PEAK, FLOOR, WARM_UP = 2e-3, 5e-5, 150
LOG_EVERY, VALIDATE_EVERY, EXPORT_SECONDS = 50, 200, 300


def read(path: str, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """All tokens in one row (each story after a BOS), where stories start, and each story's bits."""
    bos = tokenizer.token_to_id("<|endoftext|>")
    tokens, starts, bits, length = [], [], [], 0
    with open(path, encoding="utf-8") as lines:
        stories = [json.loads(line) for line in lines]
    for at in range(0, len(stories), 5000):
        for encoding in tokenizer.encode_batch([story["text"] for story in stories[at : at + 5000]]):
            starts.append(length)
            tokens.append(np.array([bos, *encoding.ids], dtype=np.uint16))
            length += len(tokens[-1])
    bits = [story["bits"] for story in stories]
    return np.concatenate(tokens), np.array(starts), bits


def sample_rows(tokens: np.ndarray, starts: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """Rows of CONTEXT + 1 tokens: half from the start of a story, half from anywhere."""
    last = len(tokens) - CONTEXT - 1
    anywhere = random.integers(0, last, BATCH // 2)
    at_start = random.choice(starts[starts < last], BATCH - BATCH // 2)
    rows = [tokens[at : at + CONTEXT + 1] for at in (*anywhere, *at_start)]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.no_grad()
def validate(model: GPT2LMHeadModel, tokens: np.ndarray, starts: np.ndarray, stories: int) -> tuple[float, float]:
    """Loss in nats per token (BOS is not predicted, the closing <|endoftext|> is), and bits per story.

    Stories longer than the context are scored in two windows, the second with half a context before it.
    """
    model.eval()
    total, count = 0.0, 0
    ends = [*starts[1:], len(tokens)]
    for start, end in list(zip(starts, ends))[:stories]:
        story = torch.from_numpy(np.append(tokens[start:end], tokens[0]).astype(np.int64))
        scored = 1
        while scored < len(story):
            begin = 0 if scored == 1 else scored - CONTEXT // 2
            window = story[begin : begin + CONTEXT + 1]
            logits = model(window[None, :-1]).logits[0].float()
            losses = F.cross_entropy(logits, window[1:], reduction="none")[scored - 1 - begin :]
            total += losses.sum().item()
            count += len(losses)
            scored += len(losses)
    model.train()
    return total / count, total / math.log(2) / min(stories, len(starts))


def export(model: GPT2LMHeadModel, folder: Path) -> None:
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous().clone()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    temporary = folder / "model.safetensors.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    os.replace(temporary, folder / "model.safetensors")
    config = model.config.to_diff_dict()
    config.update(
        architectures=["GPT2LMHeadModel"], model_type="gpt2", dtype="float16",
        activation_function="gelu_new", tie_word_embeddings=True, layer_norm_epsilon=1e-5,
        **{k: getattr(model.config, k) for k in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")},
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--steps", type=float, default=math.inf)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-export", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    bos = tokenizer.token_to_id("<|endoftext|>")
    tokens, starts, bits = read(options.train, tokenizer)
    held_out, held_out_starts, held_out_bits = read(options.validation, tokenizer)
    print(f"{len(starts)} stories, {len(tokens)} tokens, {np.mean(bits):.2f} bits per story", flush=True)

    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=CONTEXT, n_embd=256, n_layer=4, n_head=8,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=bos, eos_token_id=bos,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), fused=True)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)

    log = open(options.folder / "training-log.jsonl", "w") if not options.no_export else open(os.devnull, "w")
    began = last_export = last_log = time.time()
    step, recent = 0, []
    while True:
        progress = max((time.time() - began) / (60 * options.minutes), step / options.steps)
        done = progress >= 1
        if done or step % LOG_EVERY == 0:
            now = time.time()
            entry = {"step": step, "minutes": round((now - began) / 60, 2), "tokens": step * BATCH * CONTEXT}
            if recent:
                entry["loss"] = round(float(np.mean(recent)), 4)
                entry["lr"] = round(optimizer.param_groups[0]["lr"], 7)
                entry["tokensPerSecond"] = round(len(recent) * BATCH * CONTEXT / (now - last_log))
            if done or step % VALIDATE_EVERY == 0:
                stories = len(held_out_starts) if done else 50
                loss, per_story = validate(model, held_out, held_out_starts, stories)
                entry.update(valLoss=round(loss, 4), valBitsPerStory=round(per_story, 2), valStories=stories)
            if done:
                entry["generatorBitsPerStory"] = round(float(np.mean(held_out_bits)), 2)
            log.write(json.dumps(entry) + "\n")
            log.flush()
            print(json.dumps(entry), flush=True)
            recent, last_log = [], time.time()
        if not options.no_export and (done or time.time() - last_export > EXPORT_SECONDS):
            export(model, options.folder)
            last_export = time.time()
        if done:
            return
        rate = FLOOR + (PEAK - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        rows = sample_rows(tokens, starts, random)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bf16"):
            logits = model(rows[:, :-1]).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        step += 1


if __name__ == "__main__":
    main()
