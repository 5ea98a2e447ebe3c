"""SAELens: its own SAETrainer, a step at a time.

Settings as in dense.py, and: sparse (use_sparse_activations), compile (as its runner's compile_sae).
"""

import torch
from common import Batches, serve, settings
from sae_lens import __version__
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer

common = {"d_in": settings["dIn"], "d_sae": settings["dSae"], "device": "cpu"}
top = {**common, "k": settings.get("k", 32), "use_sparse_activations": settings.get("sparse", False)}
if settings.get("sparse"):
    # With it the gradient fails on a CPU: no 'aten::view' for sparse tensors.
    top["rescale_acts_by_decoder_norm"] = False
match settings["architecture"]:
    case "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**top))
    case "batchTopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**top))
    case "matryoshka":
        sae = MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(**top, matryoshka_widths=settings["widths"])
        )
    case "jumprelu":
        sae = JumpReLUTrainingSAE(
            JumpReLUTrainingSAEConfig(
                **common,
                jumprelu_init_threshold=settings["threshold"],
                jumprelu_bandwidth=settings["bandwidth"],
                l0_coefficient=settings["l0Coefficient"],
                decoder_init_norm=1.0,
            )
        )
    case other:
        raise SystemExit(f"no SAELens trainer for {other} here")

data = Batches(settings["data"], settings["dIn"], settings["batch"])
if settings.get("compile"):
    mode = settings["compile"]
    sae.training_forward_pass = torch.compile(
        sae.training_forward_pass, mode=None if mode == "default" else mode
    )
trainer = SAETrainer(
    cfg=SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=settings["batch"],
        lr=(rate := settings.get("learningRate", 1e-4)),
        lr_end=rate / 10,
        device="cpu",
    ),
    sae=sae,
    data_provider=data,
)


def step():
    output = trainer.step(next(data))
    trainer.n_training_steps += 1
    active = output.feature_acts
    l0 = active._nnz() if active.is_sparse else torch.count_nonzero(active.detach()).item()
    return {"loss": output.loss.item(), "l0": l0 / settings["batch"]}


serve(step, {"version": __version__})
