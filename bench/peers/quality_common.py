"""For quality_*.py: jobs in, trained autoencoders out, as folders in SAELens' layout.

Each line of stdin is a job {architecture, knob, learningRate, seed, out}; the answer to it is one
line of stdout. `knob` is what sets the sparsity: k, a coefficient or a target, as the recipe has it.
"""

import json
import pathlib
import sys
import time

from common import Batches, answer, settings

import torch
from safetensors.torch import save_file


CHECK_ROWS = 4096


class Rows(Batches):
    """The training rows in order. Libraries estimate an input scale from the first of them; for
    training they start again, so that everybody is trained on the same rows."""

    def restart(self) -> None:
        self.at = 0


def rows() -> Rows:
    return Rows(settings["data"], settings["dIn"], settings["batch"])


def total_steps(data: Rows) -> int:
    return len(data.data) // data.rows


def save(folder: str, tensors: dict, **config) -> None:
    """W_enc [d, F], W_dec [F, d] and the rest, as SAELens names them."""
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().float().contiguous().clone() for name, t in tensors.items()}
    save_file(tensors, path / "sae_weights.safetensors")
    latents, width = tensors["W_dec"].shape
    full = {
        "d_in": width,
        "d_sae": latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0"},
        **config,
    }
    (path / "cfg.json").write_text(json.dumps(full))


@torch.no_grad()
def own_measure(data: Rows, encode, decode) -> dict:
    """What the library itself makes of the first rows, to check that it is read back right."""
    x = data.data[:CHECK_ROWS]
    acts = encode(x)
    residual = x - decode(acts)
    fvu = residual.pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    return {"fvu": fvu.item(), "l0": (acts > 0).sum().item() / len(x)}


def work(train) -> None:
    """Calls train(job) for every job; it saves the autoencoder to job["out"] and returns its
    own measure of it."""
    answer({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        torch.manual_seed(job["seed"])
        start = time.perf_counter()
        try:
            own = train(job)
            answer({"own": own, "seconds": time.perf_counter() - start})
        except Exception as error:
            answer({"failed": f"{type(error).__name__}: {error}"[:300]})
