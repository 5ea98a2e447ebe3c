"""Opens each folder that write-saes.mjs wrote with SAELens itself and compares encode and the output.

    node test/oracles/write-saes.mjs /tmp/saes && python test/oracles/saelens_roundtrip.py /tmp/saes
"""

import importlib.metadata
import pathlib
import sys

import torch
from safetensors.torch import load_file
from sae_lens import SAE

print(f"sae-lens {importlib.metadata.version('sae-lens')}, torch {torch.__version__}")
worst = 0.0
folders = sorted(p.parent for p in pathlib.Path(sys.argv[1]).glob("*/cfg.json"))
for folder in folders:
    sae = SAE.load_from_disk(str(folder))
    assert sae.cfg.metadata.hook_name == "blocks.2.hook_resid_post", sae.cfg.metadata.to_dict()
    expected = load_file(folder / "expected.safetensors")
    with torch.no_grad():
        acts = sae.encode(expected["x"])
        # Not decode: a skip connection needs the input.
        output = sae(expected["x"])
    # Relative to the largest value: gates and scales make some of these SAEs' numbers large.
    difference = [
        ((a - expected[n]).abs().max() / expected[n].abs().max()).item()
        for n, a in (("acts", acts), ("reconstruction", output))
    ]
    worst = max(worst, *difference)
    print(f"{folder.name:28} {type(sae).__name__:22} acts {difference[0]:.1e}  output {difference[1]:.1e}")
assert folders, f"no cfg.json below {sys.argv[1]}"
assert worst <= 1e-5, worst
print(f"{len(folders)} SAEs, largest difference {worst:.1e} ≤ 1e-5 of the largest value")
