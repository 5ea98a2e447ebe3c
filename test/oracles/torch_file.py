"""Opens each sae.pt that write-saes.mjs wrote with torch.load(weights_only=True), computes what the
file's keys say (two nn.Linear layers and the selection between them) and compares it with what our
own code computed.

    node test/oracles/write-saes.mjs /tmp/saes && python test/oracles/torch_file.py /tmp/saes
"""

import collections
import pathlib
import sys

import torch
from safetensors.torch import load_file


def select(z, config, state):
    """Latents from encoder(x)."""
    activation = config["activation"]
    if activation == "relu":
        return torch.relu(z)
    if activation == "topk":
        top = z.topk(config["k"])
        return torch.zeros_like(z).scatter(-1, top.indices, torch.relu(top.values))
    if activation in ("batchTopk", "jumprelu"):
        return torch.where((z > state["threshold"]) & (z > 0), z, 0)
    assert activation == "gated", activation
    u = z - state["encoder.bias"]
    magnitudes = torch.relu(torch.exp(state["r_mag"]) * u + state["b_mag"])
    return torch.where(z > 0, magnitudes, 0)


print(f"torch {torch.__version__}")
worst = 0.0
files = sorted(pathlib.Path(sys.argv[1]).glob("*/sae.pt"))
for file in files:
    saved = torch.load(file, weights_only=True)
    assert list(saved) == ["model_state_dict", "config", "training_config", "metrics"], list(saved)
    assert saved["training_config"] == {"learningRate": 0.001, "steps": 800, "shuffle": True}
    assert saved["metrics"] == {"fvu": 0.25}
    config, state = saved["config"], saved["model_state_dict"]
    assert isinstance(state, collections.OrderedDict)
    d_out = config.get("d_out", config["d_in"])
    model = torch.nn.ModuleDict(
        {"encoder": torch.nn.Linear(config["d_in"], config["d_sae"]), "decoder": torch.nn.Linear(config["d_sae"], d_out)}
    )
    model.load_state_dict(state, strict=False)
    expected = load_file(file.parent / "expected.safetensors")
    x = expected["x"]
    normalized = config.get("normalize_activations") == "layer_norm"
    if normalized:
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        x = (x - mean) / deviation
    with torch.no_grad():
        acts = select(model["encoder"](x), config, state)
        output = model["decoder"](acts)
        if "skip.weight" in state:
            output = output + x @ state["skip.weight"].T
        if normalized:
            output = output * deviation + mean
    # Relative to the largest value: gates and scales make some of these SAEs' numbers large.
    difference = [
        ((a - expected[n]).abs().max() / expected[n].abs().max()).item()
        for n, a in (("acts", acts), ("reconstruction", output))
    ]
    worst = max(worst, *difference)
    print(f"{file.parent.name:28} {config['activation']:9} acts {difference[0]:.1e}  output {difference[1]:.1e}")
assert files, f"no sae.pt below {sys.argv[1]}"
assert worst <= 1e-5, worst
print(f"{len(files)} files, largest difference {worst:.1e} ≤ 1e-5 of the largest value")
