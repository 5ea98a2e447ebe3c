"""dictionary_learning for bench/quality.mjs: its trainSAE, with its trainers' defaults as far as a
short run allows, inputs of unit mean square norm, and the schedule of its demo (decay from 80 %)."""

from quality_common import own_measure, rows, save, settings, total_steps, work

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning import training


class Data:
    """From the first row at every iteration, as trainSAE iterates once for the norm and once to train."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        self.data.restart()
        # trainSAE divides in place.
        return (batch.clone() for batch in self.data)


def trainer_config(job, steps):
    common = {
        "steps": steps,
        "activation_dim": settings["dIn"],
        "dict_size": settings["dSae"],
        "layer": 0,
        "lm_name": "none",
        "lr": job["learningRate"],
        "seed": job["seed"],
        "device": "cpu",
        "decay_start": int(0.8 * steps),
        # Defaults are 1,000 and 2,000 steps, of hundreds of thousands.
        "warmup_steps": min(1000, steps // 20),
    }
    top = {**common, "threshold_start_step": min(1000, steps // 10)}
    penalised = {**common, "sparsity_warmup_steps": min(2000, steps // 10)}
    knob = job["knob"]
    match job["architecture"]:
        case "topk":
            return {"trainer": TopKTrainer, **top, "k": int(knob)}
        case "batchTopk":
            return {"trainer": BatchTopKTrainer, **top, "k": int(knob)}
        case "matryoshka":
            ends = settings["widths"]
            sizes = [end - start for start, end in zip([0, *ends], ends)]
            fractions = [size / settings["dSae"] for size in sizes]
            return {
                "trainer": MatryoshkaBatchTopKTrainer,
                **top,
                "k": int(knob),
                "group_fractions": fractions,
            }
        case "relu":
            return {"trainer": StandardTrainerAprilUpdate, **penalised, "l1_penalty": knob}
        case "gated":
            return {"trainer": GatedSAETrainer, **penalised, "l1_penalty": knob}
        case "jumprelu":
            return {"trainer": JumpReluTrainer, **penalised, "target_l0": knob}
    raise ValueError(f"no recipe for {job['architecture']}")


def train(job):
    data = rows()
    steps = total_steps(data)
    config = trainer_config(job, steps)
    made = []

    class Kept(config["trainer"]):
        """The trainer as it is; trainSAE would only write it to a file."""

        def __init__(self, **arguments):
            super().__init__(**arguments)
            if hasattr(self, "dead_feature_threshold"):
                self.dead_feature_threshold = settings["deadAfter"]
            made.append(self)

    training.trainSAE(
        data=Data(data),
        trainer_configs=[{**config, "trainer": Kept}],
        steps=steps,
        normalize_activations=True,
        device="cpu",
    )
    (trainer,) = made
    export(job, trainer.ae)
    return own_measure(data, trainer.ae.encode, trainer.ae.decode)


def export(job, ae):
    """The autoencoder in SAELens' terms."""
    match job["architecture"]:
        case "topk" | "batchTopk":
            tensors = {
                "W_enc": ae.encoder.weight.T,
                "b_enc": ae.encoder.bias,
                "W_dec": ae.decoder.weight.T,
                "b_dec": ae.b_dec,
            }
            if job["architecture"] == "topk":
                config = {"architecture": "topk", "k": int(job["knob"])}
                save(job["out"], tensors, **config, rescale_acts_by_decoder_norm=False)
            else:
                save(job["out"], with_threshold(tensors, ae), architecture="jumprelu")
        case "matryoshka":
            tensors = {n: getattr(ae, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
            save(job["out"], with_threshold(tensors, ae), architecture="jumprelu")
        case "jumprelu":
            names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
            tensors = {n: getattr(ae, n) for n in names}
            save(job["out"], tensors, architecture="jumprelu", apply_b_dec_to_input=False)
        case "relu":
            tensors = {
                "W_enc": ae.encoder.weight.T,
                "b_enc": ae.encoder.bias,
                "W_dec": ae.decoder.weight.T,
                "b_dec": ae.bias,
            }
            save(job["out"], tensors, architecture="standard")
        case "gated":
            tensors = {
                "W_enc": ae.encoder.weight.T,
                "b_gate": ae.gate_bias,
                "b_mag": ae.mag_bias,
                "r_mag": ae.r_mag,
                "W_dec": ae.decoder.weight.T,
                "b_dec": ae.decoder_bias,
            }
            save(job["out"], tensors, architecture="gated")


def with_threshold(tensors, ae):
    return {**tensors, "threshold": ae.threshold.expand(tensors["W_dec"].shape[0])}


work(train)
