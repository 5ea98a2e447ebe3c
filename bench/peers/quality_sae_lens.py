"""SAELens for bench/quality.mjs: its SAETrainer, with the recipes of its training guide."""

import json
import pathlib
import tempfile

from quality_common import own_measure, rows, save, settings, total_steps, work

from safetensors.torch import load_file
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer

NORM_BATCHES = 100


def make(job, steps):
    """Config and class. The guide warms l1 up over 5 % of the steps, and tanh's penalty over all."""
    common = {
        "d_in": settings["dIn"],
        "d_sae": settings["dSae"],
        "normalize_activations": "expected_average_only_in",
    }
    knob = job["knob"]
    match job["architecture"]:
        case "topk":
            return TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=int(knob)))
        case "batchTopk":
            return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**common, k=knob))
        case "matryoshka":
            return MatryoshkaBatchTopKTrainingSAE(
                MatryoshkaBatchTopKTrainingSAEConfig(
                    **common, k=knob, matryoshka_widths=list(settings["widths"])
                )
            )
        case "relu":
            return StandardTrainingSAE(
                StandardTrainingSAEConfig(
                    **common, l1_coefficient=knob, l1_warm_up_steps=steps // 20
                )
            )
        case "gated":
            return GatedTrainingSAE(
                GatedTrainingSAEConfig(**common, l1_coefficient=knob, l1_warm_up_steps=steps // 20)
            )
        case "jumprelu":
            return JumpReLUTrainingSAE(
                JumpReLUTrainingSAEConfig(
                    **common,
                    l0_coefficient=knob,
                    l0_warm_up_steps=steps,
                    jumprelu_sparsity_loss_mode="tanh",
                    jumprelu_tanh_scale=4.0,
                    jumprelu_bandwidth=2.0,
                    jumprelu_init_threshold=0.1,
                    pre_act_loss_coefficient=3e-6,
                )
            )
    raise ValueError(f"no recipe for {job['architecture']}")


class FromTheStart:
    """The first batches for the input scale, then all of them from the first on."""

    def __init__(self, data, before):
        self.data, self.before = data, before

    def __iter__(self):
        return self

    def __next__(self):
        if self.before == 0:
            self.data.restart()
        self.before -= 1
        return next(self.data)


def train(job):
    data = rows()
    steps = total_steps(data)
    sae = make(job, steps)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * data.rows,
            train_batch_size_samples=data.rows,
            lr=job["learningRate"],
            lr_end=job["learningRate"] / 10,
            lr_decay_steps=steps // 5,
            device="cpu",
            # A latent counts as dead after this many steps; the default is for long runs.
            dead_feature_window=max(1, settings["deadAfter"] // data.rows),
            n_batches_for_norm_estimate=min(NORM_BATCHES, steps),
        ),
        sae=sae,
        data_provider=FromTheStart(data, min(NORM_BATCHES, steps)),
    )
    trainer.fit()
    with tempfile.TemporaryDirectory() as folder:
        weights, config = sae.save_inference_model(folder)
        tensors = load_file(weights)
        saved = json.loads(pathlib.Path(config).read_text())
        inference = SAE.load_from_disk(folder)
    kept = {k: saved[k] for k in ("architecture", "k", "apply_b_dec_to_input") if k in saved}
    if saved["architecture"] == "topk":
        # The norms are folded into what was just read: the rows of W_dec have norm 1.
        kept["rescale_acts_by_decoder_norm"] = False
    save(job["out"], tensors, **kept)
    return own_measure(data, inference.encode, inference.decode)


work(train)
