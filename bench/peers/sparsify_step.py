"""sparsify: its own Trainer.fit, over a "language model" whose only layer looks activations up.

A step lasts from one call of that model to the next. Settings as in dense.py (TopK only).
"""

import os
import tempfile
import time
from importlib.metadata import version

# Its sparse decoder is a Triton kernel for GPUs; this is its documented way to do without.
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

from common import answer, peak_rss_mib, requests, settings  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from sparsify import SparseCoderConfig, TrainConfig, Trainer  # noqa: E402

TOKENS = 64
batch, d = settings["batch"], settings["dIn"]
rows = torch.from_numpy(np.fromfile(settings["data"], dtype=np.float32).reshape(-1, d))


class LookUp(torch.nn.Module):
    def forward(self, ids):
        return rows[ids]


class Model(torch.nn.Module):
    """As much of a transformers model as the Trainer touches."""

    def __init__(self):
        super().__init__()
        self.layer = LookUp()
        self.device = torch.device("cpu")
        self.dummy_inputs = {"ids": torch.zeros(1, 2, dtype=torch.long)}
        self.base_model = None
        self.asked = None
        self.left = 0
        self.times = []
        self.started = None

    def forward(self, ids):
        if self.asked is not None and ids.numel() == batch:
            self.turn()
        return self.layer(ids)

    def turn(self):
        """Ends the step that is running; waits for a request when none is left."""
        if self.started is not None:
            self.times.append((time.perf_counter() - self.started) * 1000)
            self.left -= 1
        if self.left == 0:
            if self.times:
                answer({"ms": self.times, "rssMiB": peak_rss_mib()})
            self.times = []
            self.left = next(self.asked, 0)
            if self.left == 0:
                os._exit(0)
        self.started = time.perf_counter()


model = Model()
object.__setattr__(model, "base_model", model)
sequences = batch // TOKENS
ids = np.arange(len(rows) // TOKENS * TOKENS).reshape(-1, TOKENS)
dataset = Dataset.from_dict({"input_ids": np.tile(ids, (64, 1))}).with_format("torch")
with tempfile.TemporaryDirectory() as folder:
    config = TrainConfig(
        SparseCoderConfig(num_latents=settings["dSae"], k=settings.get("k", 32)),
        batch_size=sequences,
        optimizer="adam",
        lr=settings.get("learningRate", 1e-4),
        lr_warmup_steps=0,
        auxk_alpha=1 / 32,
        hookpoints=["layer"],
        log_to_wandb=False,
        save_dir=folder,
    )
    trainer = Trainer(config, dataset, model)
    model.asked = requests()
    answer({"ready": True, "torch": torch.__version__, "version": version("eai-sparsify")})
    trainer.fit()
