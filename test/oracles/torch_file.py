"""Opens each sae.pt that write-saes.mjs wrote with torch.load(weights_only=True), builds the two
nn.Linear layers and compares them with what our own code computed.

    node test/oracles/write-saes.mjs /tmp/saes && python test/oracles/torch_file.py /tmp/saes
"""

import collections
import pathlib
import sys

import torch
from safetensors.torch import load_file

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
    model = torch.nn.ModuleDict(
        {"encoder": torch.nn.Linear(config["d_in"], config["d_sae"]), "decoder": torch.nn.Linear(config["d_sae"], config["d_in"])}
    )
    model.load_state_dict(state)
    expected = load_file(file.parent / "expected.safetensors")
    with torch.no_grad():
        acts = torch.relu(model["encoder"](expected["x"]))
        if config["activation"] == "topk":
            top = acts.topk(config["k"])
            acts = torch.zeros_like(acts).scatter(-1, top.indices, top.values)
        reconstruction = model["decoder"](acts)
    difference = [(a - expected[n]).abs().max().item() for n, a in (("acts", acts), ("reconstruction", reconstruction))]
    worst = max(worst, *difference)
    print(f"{file.parent.name:20} {config['activation']:5} acts {difference[0]:.1e}  reconstruction {difference[1]:.1e}")
assert files, f"no sae.pt below {sys.argv[1]}"
assert worst <= 1e-5, worst
print(f"{len(files)} files, largest absolute difference {worst:.1e} ≤ 1e-5")
