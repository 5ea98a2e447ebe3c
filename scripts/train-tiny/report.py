"""After training: held-out numbers of the exported (F16) model, the loss curve, samples.

usage: python report.py MODEL_FOLDER VALIDATION.jsonl [SAMPLES]
Writes MODEL_FOLDER/loss.svg and prints the rest.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from train import read, validate
from transformers import GPT2LMHeadModel


def loss_curve(log: list[dict], floor: float) -> str:
    """Loss in nats per token over millions of tokens, on a logarithmic loss axis."""
    width, height, left, bottom = 640, 320, 56, 44
    most = max(entry["tokens"] for entry in log)
    low, high = np.log(floor * 0.8), np.log(8.0)

    def x(tokens: float) -> float:
        return left + (width - left - 16) * tokens / most

    def y(loss: float) -> float:
        return 12 + (height - bottom - 12) * (high - np.log(loss)) / (high - low)

    def line(key: str, colour: str) -> str:
        points = " ".join(f"{x(e['tokens']):.1f},{y(e[key]):.1f}" for e in log if key in e)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Loss of models/tiny while it was trained</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for loss in (0.5, 1, 2, 4, 8):
        parts.append(f'<path d="M{left} {y(loss):.1f}H{width - 16}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss}</text>')
    for millions in range(0, int(most / 1e6) + 1, 2):
        parts.append(f'<text x="{x(millions * 1e6):.1f}" y="{height - 24}" text-anchor="middle">{millions}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">million tokens seen</text>')
    parts.append(
        f'<path d="M{left} {y(floor):.1f}H{width - 16}" stroke="#555" stroke-dasharray="5 4"/>'
        f'<text x="{width - 20}" y="{y(floor) + 14:.1f}" text-anchor="end" fill="#555">generator {floor:.3f}</text>'
    )
    parts += [line("loss", "#9bb8d9"), line("valLoss", "#c0392b")]
    parts.append(f'<text x="{width - 20}" y="28" text-anchor="end" fill="#5a86b5">train (mean of 50 steps)</text>')
    parts.append(f'<text x="{width - 20}" y="44" text-anchor="end" fill="#c0392b">held-out, nats per token</text>')
    return "\n".join([*parts, "</svg>", ""])


@torch.no_grad()
def sample(model: GPT2LMHeadModel, tokenizer: Tokenizer, bos: int, seed: int) -> str:
    """One story at temperature 0.8, until <|endoftext|> or the end of the context."""
    generator = torch.Generator().manual_seed(seed)
    tokens, past = [bos], None
    while len(tokens) < 256:
        step = model(torch.tensor([tokens[-1:]]), past_key_values=past, use_cache=True)
        past = step.past_key_values
        odds = torch.softmax(step.logits[0, -1].float() / 0.8, -1)
        tokens.append(int(torch.multinomial(odds, 1, generator=generator)))
        if tokens[-1] == bos:
            break
    return tokenizer.decode(tokens)


def main(folder: str, validation: str, samples: str = "20") -> None:
    torch.set_num_threads(2)
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, starts, bits = read(validation, tokenizer)
    loss, per_story = validate(model, tokens, starts, len(starts))
    model.eval()
    per_token = float(np.sum(bits)) * np.log(2) / len(tokens)
    numbers = {
        "stories": len(starts), "tokensPerStory": len(tokens) / len(starts), "valLoss": loss,
        "bitsPerStory": per_story, "generatorBitsPerStory": float(np.mean(bits)),
        "generatorNatsPerToken": float(per_token),
    }  # fmt: skip
    print(json.dumps(numbers, indent=2), flush=True)
    log = [json.loads(line) for line in (Path(folder) / "training-log.jsonl").read_text().splitlines()]
    (Path(folder) / "loss.svg").write_text(loss_curve(log, per_token))
    for seed in range(int(samples)):
        print(f"\n--- seed {seed}\n{sample(model, tokenizer, tokens[0].item(), seed)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
