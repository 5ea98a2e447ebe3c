"""dictionary_learning: the trainer classes that its trainSAE drives, a step at a time.

Settings as in dense.py.
"""

from importlib.metadata import version

from common import Batches, serve, settings
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.top_k import TopKTrainer

architecture, d, latents = settings["architecture"], settings["dIn"], settings["dSae"]
common = {
    "steps": 100_000,
    "activation_dim": d,
    "dict_size": latents,
    "layer": 0,
    "lm_name": "none",
    "lr": settings.get("learningRate", 1e-4),
    "warmup_steps": 0,
    "device": "cpu",
    "seed": 0,
}
k = settings.get("k", 32)
match architecture:
    case "topk":
        trainer = TopKTrainer(**common, k=k, threshold_start_step=0)
    case "batchTopk":
        trainer = BatchTopKTrainer(**common, k=k, threshold_start_step=0)
    case "matryoshka":
        ends = settings["widths"]
        sizes = [end - start for start, end in zip([0, *ends], ends)]
        trainer = MatryoshkaBatchTopKTrainer(
            **common, k=k, threshold_start_step=0, group_fractions=[n / latents for n in sizes]
        )
    case "jumprelu":
        trainer = JumpReluTrainer(
            **common,
            bandwidth=settings["bandwidth"],
            sparsity_penalty=settings["l0Coefficient"],
            sparsity_warmup_steps=0,
            target_l0=settings["targetL0"],
        )
        trainer.ae.threshold.data.fill_(settings["threshold"])
    case other:
        raise SystemExit(f"no dictionary_learning trainer for {other} here")

data = Batches(settings["data"], d, settings["batch"])
done = 0


def step():
    global done
    loss = trainer.update(done, next(data))
    done += 1
    return {"loss": loss}


serve(step, {"version": version("dictionary-learning")})
