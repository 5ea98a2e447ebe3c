"""Plain PyTorch: each architecture as a person would write it, with dense [batch, latents] tensors.

Settings: architecture, dIn, dSae, batch, k, widths, threshold, learningRate, data, compile (absent,
"default", "max-autotune"), adam ("fused", "default").
"""

import torch
import torch.nn.functional as F
from common import Batches, serve, settings

d, latents, batch = settings["dIn"], settings["dSae"], settings["batch"]
architecture = settings["architecture"]
k = settings.get("k", 32)
DEAD_AFTER = 10_000_000


class JumpReLU(torch.autograd.Function):
    """z where z > theta; the threshold's gradient by a rectangle of width `bandwidth`."""

    @staticmethod
    def forward(ctx, z, theta, bandwidth):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return z * (z > theta)

    @staticmethod
    def backward(ctx, grad):
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.bandwidth / 2).to(grad)
        return grad * (z > theta), -(theta / ctx.bandwidth * near * grad).sum(0), None


class Step(torch.autograd.Function):
    """1 where z > theta, with the same rectangle."""

    @staticmethod
    def forward(ctx, z, theta, bandwidth):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z)

    @staticmethod
    def backward(ctx, grad):
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.bandwidth / 2).to(grad)
        return None, -(near * grad).sum(0) / ctx.bandwidth, None


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        rows = torch.randn(latents, d)
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_dec = torch.nn.Parameter(rows.clone())
        self.W_enc = torch.nn.Parameter(rows)
        self.b_enc = torch.nn.Parameter(torch.zeros(latents))
        self.b_dec = torch.nn.Parameter(torch.zeros(d))
        if architecture == "jumprelu":
            self.threshold = torch.nn.Parameter(torch.full((latents,), settings["threshold"]))
        self.register_buffer("since_fired", torch.zeros(latents, dtype=torch.long))
        self.running_threshold = torch.zeros(())

    def forward(self, x):
        """The loss, the reconstruction and which latents are active: mask [N, F] or (indices, values)."""
        if architecture == "relu":
            # The reference experiment: no bias taken off the input, means over all elements.
            acts = F.relu(F.linear(x, self.W_enc, self.b_enc))
            out = acts @ self.W_dec + self.b_dec
            return F.mse_loss(out, x) + 0.05 * acts.mean(), out, acts
        z = F.linear(x - self.b_dec, self.W_enc, self.b_enc)
        if architecture == "topk":
            values, indices = z.topk(k, sorted=False)
            values = F.relu(values)
            acts = torch.zeros_like(z).scatter(-1, indices, values)
            out = acts @ self.W_dec + self.b_dec
            return (x - out).pow(2).sum(1).mean(), out, (indices, values)
        if architecture == "jumprelu":
            width = settings["bandwidth"]
            acts = JumpReLU.apply(z, self.threshold, width)
            out = acts @ self.W_dec + self.b_dec
            l0 = Step.apply(z, self.threshold, width).sum(1).mean()
            return (x - out).pow(2).sum(1).mean() + settings["l0Coefficient"] * l0, out, acts
        flat = F.relu(z).flatten()
        values, indices = flat.topk(k * len(x), sorted=False)
        acts = torch.zeros_like(flat).scatter(-1, indices, values).view_as(z)
        if architecture == "batchTopk":
            out = acts @ self.W_dec + self.b_dec
            loss = (x - out).pow(2).sum(1).mean()
        else:
            out, loss, start = self.b_dec, 0.0, 0
            for width in settings["widths"]:
                out = out + acts[:, start:width] @ self.W_dec[start:width]
                loss = loss + (x - out).pow(2).sum(1).mean() / len(settings["widths"])
                start = width
        return loss, out, (indices % latents, values)


model = Model()
unit_norm = architecture != "relu"


@torch.no_grad()
def measure(x, out, active, since_fired):
    """Fraction of variance unexplained, mean active latents, and the dead ones."""
    fvu = (x - out).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    since_fired += len(x)
    if isinstance(active, tuple):
        indices, values = active
        l0 = (values > 0).sum() / len(x)
        since_fired.index_fill_(0, indices.flatten(), 0)
    else:
        fired = active > 0
        l0 = fired.sum() / len(x)
        since_fired.masked_fill_(fired.any(0), 0)
    return fvu, l0, (since_fired >= DEAD_AFTER).sum()


@torch.no_grad()
def project(weight, grad):
    unit = weight / weight.norm(dim=1, keepdim=True)
    grad.sub_((grad * unit).sum(1, keepdim=True) * unit)


@torch.no_grad()
def normalize(weight):
    weight.div_(weight.norm(dim=1, keepdim=True))


def loss_and_metrics(x):
    loss, out, active = model(x)
    return (loss, *measure(x, out, active, model.since_fired), active)


mode = settings.get("compile")
if mode:
    compiled = {} if mode == "default" else {"mode": mode}
    loss_and_metrics = torch.compile(loss_and_metrics, **compiled)
    project = torch.compile(project, **compiled)
    normalize = torch.compile(normalize, **compiled)
adam = torch.optim.Adam(
    model.parameters(),
    lr=settings.get("learningRate", 1e-4),
    fused=settings.get("adam", "fused") == "fused",
)
data = Batches(settings["data"], d, batch)


def step():
    x = data.next()
    loss, fvu, l0, dead, active = loss_and_metrics(x)
    if architecture in ("batchTopk", "matryoshka"):
        smallest = active[1].detach().min()
        model.running_threshold += 0.01 * (smallest - model.running_threshold)
    loss.backward()
    if unit_norm:
        project(model.W_dec.data, model.W_dec.grad)
    adam.step()
    adam.zero_grad()
    if unit_norm:
        normalize(model.W_dec.data)
    if architecture == "jumprelu":
        model.threshold.data.clamp_(min=0)
    return {"loss": loss.item(), "fvu": fvu.item(), "l0": l0.item(), "dead": dead.item()}


serve(step)
