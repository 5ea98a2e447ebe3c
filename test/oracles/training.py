"""Trains four small autoencoders in PyTorch (float64, autograd, torch.optim.Adam) and writes the
data, initial weights, loss of every step and final weights to training.safetensors, which
src/sae/train.test.ts compares the trainer with.

    python test/oracles/training.py
"""

import pathlib

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
D, F, BATCH, ROWS, EPOCHS, LR = 12, 24, 16, 150, 2, 3e-3  # 150 rows: the tenth batch of an epoch has 6
out: dict[str, torch.Tensor] = {}


def f32(t: torch.Tensor) -> torch.Tensor:
    """Rounded to float32, so that both sides start from the same numbers."""
    return t.detach().float().double()


directions = torch.randn(20, D)
x_all = f32((torch.rand(ROWS, 20) < 0.15).double() * torch.randn(ROWS, 20).abs() @ directions + 0.1 * torch.randn(ROWS, D) + 0.3)
out["x"] = x_all


def train(name: str, arch: str, *, apply_b_dec: bool, unit_norm: bool, mean: bool = False, l1: float = 0.0,
          k: int = 0, aux_k: int = 0, aux: float = 0.0, dead_after: int = 0) -> None:
    w_enc, w_dec = torch.randn(F, D) * 0.3, torch.randn(F, D) * 0.3
    if unit_norm:
        w_dec = w_dec / w_dec.norm(dim=1, keepdim=True)
    p = {"W_enc": w_enc, "b_enc": torch.randn(F) * 0.05, "W_dec": w_dec, "b_dec": torch.randn(D) * 0.1}
    p = {n: f32(t).requires_grad_() for n, t in p.items()}
    for n, t in p.items():
        out[f"{name}.{n}"] = t.detach().clone()
    opt = torch.optim.Adam(p.values(), lr=LR)
    since = torch.zeros(F)
    losses, auxes = [], []
    for _ in range(EPOCHS):
        for start in range(0, ROWS, BATCH):
            x = x_all[start : start + BATCH]
            n = len(x)
            z = (x - p["b_dec"] if apply_b_dec else x) @ p["W_enc"].T + p["b_enc"]
            a = torch.relu(z)
            if arch == "topk":
                keep = torch.zeros_like(z).scatter_(1, z.topk(k).indices, 1.0)
                a = a * keep
            e = x - (a @ p["W_dec"] + p["b_dec"])
            aux_term = torch.zeros(())
            if arch == "relu" and mean:
                loss = (e**2).mean() + l1 * a.abs().mean()
            elif arch == "relu":
                loss = (e**2).sum(1).mean() + l1 * (a * p["W_dec"].norm(dim=1)).sum(1).mean()
            else:
                loss = (e**2).sum(1).mean()
                dead = since >= dead_after
                if dead.any():
                    zd = z.masked_fill(~dead, -torch.inf)
                    top = zd.topk(min(aux_k, int(dead.sum()))).indices
                    ad = torch.relu(z) * torch.zeros_like(z).scatter_(1, top, 1.0)
                    aux_term = aux * ((e.detach() - ad @ p["W_dec"]) ** 2).sum(1).mean()
                    loss = loss + aux_term
            opt.zero_grad()
            loss.backward()
            if unit_norm:
                w = p["W_dec"].detach()
                u = w / w.norm(dim=1, keepdim=True)
                p["W_dec"].grad -= (p["W_dec"].grad * u).sum(1, keepdim=True) * u
            opt.step()
            if unit_norm:
                with torch.no_grad():
                    p["W_dec"] /= p["W_dec"].norm(dim=1, keepdim=True)
            # Rows since the last one in which the latent fired.
            fired = a.detach() > 0
            last = torch.where(fired.any(0), n - 1 - fired.flip(0).double().argmax(0), -1.0)
            since = torch.where(last >= 0, n - 1 - last, since + n)
            losses.append(loss.item())
            auxes.append(aux_term.item())
    out[f"{name}.loss"] = torch.tensor(losses)
    out[f"{name}.aux"] = torch.tensor(auxes)
    for n, t in p.items():
        out[f"{name}.{n}.final"] = t.detach().clone()
    print(f"{name}: {losses[0]:.6f} → {losses[-1]:.6f}, steps with a dead-latent term: {sum(v > 0 for v in auxes)}")


train("relu-mean", "relu", apply_b_dec=False, unit_norm=False, mean=True, l1=0.05)
train("relu-sum", "relu", apply_b_dec=True, unit_norm=False, l1=0.5)
train("topk", "topk", apply_b_dec=True, unit_norm=True, k=2, aux_k=6, aux=1 / 32, dead_after=20)
train("topk-free", "topk", apply_b_dec=False, unit_norm=False, k=3, aux_k=24, aux=1 / 4, dead_after=20)
save_file({n: t.float().contiguous() for n, t in out.items()}, str(pathlib.Path(__file__).with_name("training.safetensors")))
