"""Matrix products alone, as PyTorch does them; settings as in lens/gemm.mjs."""

import time

import torch
from common import answer, settings

results = []
for product in settings["products"]:
    m, k, n = product["m"], product["k"], product["n"]
    a = torch.rand(k, m).T if product.get("transA") else torch.rand(m, k)
    b = torch.rand(n, k).T if product.get("transB") else torch.rand(k, n)
    out = torch.empty(m, n)
    ms = []
    for i in range(settings["repeat"] + 2):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if i >= 2:
            ms.append((time.perf_counter() - start) * 1000)
    results.append({"name": product["name"], "ms": ms, "flop": 2 * m * k * n})
answer({"results": results, "torch": torch.__version__})
