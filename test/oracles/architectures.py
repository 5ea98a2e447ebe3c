"""Trains a small SAE of every architecture in PyTorch (float64, autograd, torch.optim.Adam) and writes
to test/fixtures/architectures/ what test/architectures.test.ts compares the trainer with:

    weights.safetensors   the inputs, the weights that cases start from, every case's final weights
    <case>.json           its configuration in Lens's words, its curve of losses and terms

    python test/oracles/architectures.py            # all cases
    python test/oracles/architectures.py gated      # tries the cases whose names contain "gated"; writes nothing

The losses are written from the papers, one by one and without regard to speed:
L1 with decoder norms: Anthropic, "Circuits Updates", April 2024. p-annealing: Karvonen et al. 2024.
Gated: Rajamanoharan et al. 2024a. TopK and AuxK: Gao et al. 2024. BatchTopK: Bussmann et al. 2024.
JumpReLU: Rajamanoharan et al. 2024b (eq. 9-12 are the only gradients that autograd does not make);
its tanh and pre-activation losses: Anthropic, "Circuits Updates", January 2025. Matryoshka: Bussmann
et al. 2025. Transcoder: Dunefsky et al. 2024; with a skip connection: Paulo et al. 2025. Crosscoder:
Lindsey et al. 2024. Resampling: Bricken et al. 2023, with the random numbers of src/rng.ts.

Every case runs in float32 as well; one whose two curves part is badly chosen (a near-tie decided by
rounding, say) and is refused.
"""

import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file

torch.manual_seed(20)
torch.set_num_threads(1)
STEPS, BATCH, ROWS = 50, 24, 245  # the last batch of an epoch has 5 rows
D, D_OUT, F, F_WIDE = 14, 11, 40, 256
FOLDER = pathlib.Path(__file__).parent.parent / "fixtures" / "architectures"


class JumpReLU(torch.autograd.Function):
    """a = z · 1[z > θ]; ∂a/∂θ is taken to be -(θ/ε) K((z-θ)/ε), K the rectangle |u| < 1/2."""

    @staticmethod
    def forward(ctx, z, theta, eps):
        active = (z > theta) & (z > 0)
        ctx.save_for_backward(z, theta, active)
        ctx.eps = eps
        return torch.where(active, z, 0)

    @staticmethod
    def backward(ctx, g):
        z, theta, active = ctx.saved_tensors
        window = ((z - theta).abs() / ctx.eps < 0.5).to(z.dtype)
        return torch.where(active, g, 0), -((theta / ctx.eps) * window * g).sum(0), None


class Step(torch.autograd.Function):
    """1[z > θ]; its derivative by θ is taken to be -(1/ε) K((z-θ)/ε), by z 0."""

    @staticmethod
    def forward(ctx, z, theta, eps):
        ctx.save_for_backward(z, theta)
        ctx.eps = eps
        return ((z > theta) & (z > 0)).to(z.dtype)

    @staticmethod
    def backward(ctx, g):
        z, theta = ctx.saved_tensors
        window = ((z - theta).abs() / ctx.eps < 0.5).to(z.dtype)
        return torch.zeros_like(g), -(window * g / ctx.eps).sum(0), None


def f32(t: torch.Tensor) -> torch.Tensor:
    """Rounded to float32, so that both sides start from the same numbers."""
    return t.detach().double().float().double()


def unit(w: torch.Tensor) -> torch.Tensor:
    return w / w.norm(dim=1, keepdim=True)


def make_data() -> dict[str, torch.Tensor]:
    """Inputs, targets of transcoders, and starting weights: names with a stem before the dot share a parameter."""
    t: dict[str, torch.Tensor] = {}
    strengths = (torch.rand(ROWS, 30) < 0.12) * torch.randn(ROWS, 30).abs().double()
    directions = torch.randn(30, D).double()
    t["x"] = strengths @ directions + 0.05 * torch.randn(ROWS, D) + 0.2
    t["y"] = torch.relu(t["x"] @ torch.randn(D, D_OUT).double() * 0.4) + 0.05 * torch.randn(ROWS, D_OUT)
    t["W_enc"] = torch.randn(F, D).double() * 0.3
    t["W_dec"] = (unit(t["W_enc"]) + 0.15 * torch.randn(F, D)) * (0.4 + torch.rand(F, 1))
    t["b_enc"] = torch.randn(F).double() * 0.1
    t["b_dec"] = torch.randn(D).double() * 0.1 + 0.1
    # Latents that never make it among the largest or over a threshold: four could learn to, one is hopeless.
    t["W_enc.dead"] = t["W_enc"].clone()
    t["W_enc.dead"][[3, 8, 22, 30]] *= 0.03
    t["b_enc.dead"] = t["b_enc"].clone()
    t["b_enc.dead"][[3, 8, 22, 30]] *= 0.1
    t["b_enc.dead"][27] = -20
    t["W_dec.unit"] = unit(t["W_dec"])
    t["threshold"] = 0.2 + 0.3 * torch.rand(F).double()
    t["b_mag"] = torch.randn(F).double() * 0.1
    t["r_mag"] = torch.randn(F).double() * 0.2
    # Many latents, each active in few rows.
    t["W_enc.wide"] = torch.randn(F_WIDE, D).double() * 0.3
    t["W_dec.wide"] = unit(t["W_enc.wide"]) * (0.4 + torch.rand(F_WIDE, 1))
    t["W_dec.wideUnit"] = unit(t["W_enc.wide"])
    z = (t["x"] - t["b_dec"]) @ t["W_enc.wide"].T
    t["b_enc.wide"] = -z.quantile(0.985, dim=0)
    t["threshold.wide"] = torch.full((F_WIDE,), 0.05).double()
    t["r_mag.wide"] = torch.randn(F_WIDE).double() * 0.2
    t["b_mag.wide"] = t["b_enc.wide"] * torch.exp(t["r_mag.wide"]) + 0.3 * torch.randn(F_WIDE)
    # For targets that are not the input.
    t["W_dec.out"] = torch.randn(F, D_OUT).double() * 0.2
    t["W_dec.outUnit"] = unit(t["W_dec.out"])
    t["b_dec.out"] = torch.randn(D_OUT).double() * 0.1
    t["W_skip.out"] = torch.randn(D_OUT, D).double() * 0.1
    t["W_dec.wideOut"] = torch.randn(F_WIDE, D_OUT).double() * 0.2
    return {name: f32(v) for name, v in t.items()}


DATA = make_data()


class Rng:
    """sfc32 seeded through splitmix32 and words, as in src/rng.ts: who is resampled from which row is drawn by it."""

    def __init__(self, seed: int, *words: str | int):
        h = self.mix(seed) ^ self.mix(0x9E3779B9)
        for word in words:
            for ch in str(word):
                h = self.mix(h ^ ord(ch))
            h = self.mix(h ^ 0x51ED270B)
        self.state = []
        for _ in range(3):
            h = (h + 0x9E3779B9) & 0xFFFFFFFF
            self.state.append(self.mix(h))
        self.state.append(1)
        for _ in range(12):
            self.uint32()

    @staticmethod
    def mix(x: int) -> int:
        for factor in (0x21F0AAAD, 0x735A2D97):
            x = ((x ^ (x >> (16 if factor == 0x21F0AAAD else 15))) * factor) & 0xFFFFFFFF
        return x ^ (x >> 15)

    def uint32(self) -> int:
        a, b, c, counter = self.state
        out = (a + b + counter) & 0xFFFFFFFF
        turned = ((c << 21) | (c >> 11)) & 0xFFFFFFFF
        self.state = [b ^ (b >> 9), (c + (c << 3)) & 0xFFFFFFFF, (turned + out) & 0xFFFFFFFF, (counter + 1) & 0xFFFFFFFF]
        return out

    def uniform(self) -> float:
        return ((self.uint32() >> 5) * 67108864 + (self.uint32() >> 6)) / 9007199254740992


class Side:
    """All inputs or all targets in the units of training, and the way back for errors."""

    def __init__(self, kind: str, t: torch.Tensor, heads: list[int], dtype: torch.dtype):
        n, d = t.shape
        self.original = t.double()
        self.lower = None
        match kind:
            case "none":
                self.divisors = torch.ones(1, d)
            case "rms":  # each hook point by itself
                self.divisors = torch.cat([h.square().mean().sqrt().expand(1, h.shape[1]) for h in t.split(heads, dim=1)], 1)
            case "expectedAverageNorm":
                self.divisors = torch.cat([(h.norm(dim=1).mean() / h.shape[1] ** 0.5).expand(1, h.shape[1]) for h in t.split(heads, dim=1)], 1)
            case "layerNorm":
                self.divisors = t.std(1, keepdim=True) + 1e-5
                t = t - t.mean(1, keepdim=True)
            case "whitening":
                centred = t - t.mean(0)
                covariance = centred.T @ centred / n
                covariance += 1e-4 * covariance.trace() / d * torch.eye(d)
                self.lower = torch.linalg.cholesky(covariance)
                t = torch.linalg.solve_triangular(self.lower, centred.T, upper=False).T
                self.divisors = torch.ones(1, d)
        self.rows = (t / self.divisors).to(dtype)

    def raw(self, errors: torch.Tensor, rows: slice) -> torch.Tensor:
        errors = errors.double()
        if self.lower is not None:
            return errors @ self.lower.T
        return errors * (self.divisors if len(self.divisors) == 1 else self.divisors[rows])


def warmup(step: int, steps: int) -> float:
    return min(1.0, step / steps) if steps > 0 else 1.0


def learning_rate(train: dict, step: int) -> float:
    """Linear warm-up from 0, the schedule from there to the end, a linear fall over the last steps."""
    warm = train.get("warmupSteps", 0)
    decay = train.get("decaySteps", 0)
    end = train.get("finalLearningRate", 0)
    done = max(0, step - 1 - warm) / (STEPS - warm)
    shape = {
        "constant": 1.0,
        "linear": 1 - (1 - end) * done,
        "cosine": end + (1 - end) * (1 + math.cos(math.pi * done)) / 2,
    }[train.get("schedule", "constant")]
    fall = min(1.0, (STEPS - step + 1) / decay) if decay > 0 else 1.0
    return train["learningRate"] * warmup(step, warm) * shape * fall


class Run:
    """One training run. `sae` and `train` are Lens's configuration; absent fields have its defaults."""

    def __init__(self, sae: dict, train: dict, start: dict[str, str], target: str, heads: list[int], dtype: torch.dtype):
        self.sae, self.train, self.heads, self.dtype = sae, train, heads, dtype
        self.architecture = sae["architecture"]
        self.is_transcoder = target != "x"
        self.unit_norm = sae.get("unitNormDecoder", self.architecture != "relu")
        self.centre = sae.get("applyBDecToInput", not self.is_transcoder)
        x_all, y_all = DATA["x"], DATA[target]
        kind = sae.get("normalizeActivations", "none")
        self.input = Side(kind, x_all, heads or [D], dtype)
        self.target = Side(kind, y_all, heads or [y_all.shape[1]], dtype)
        in_rms = kind == "none" and sae.get("coefficientUnits") == "inputRms"
        self.rho = y_all.square().mean().sqrt().item() if in_rms else 1.0
        self.p = {name: DATA[source].to(dtype).clone().requires_grad_() for name, source in start.items()}
        self.width = self.p["W_enc"].shape[0]
        self.since = torch.zeros(self.width, dtype=torch.int64)
        self.cutoff: float | None = None
        self.theta: float | None = None  # running threshold of batch top-k
        self.exponent, self.anneal_factor, self.queue = 1.0, 1.0, []
        self.control_factor, self.l0_memory, self.l0_error = 1.0, None, None

    # ---- the model ----

    def norms(self) -> torch.Tensor:
        """What a penalty weighs latents by: 1 where training keeps the norm of the whole row there."""
        return torch.ones(self.width, dtype=self.dtype) if self.unit_norm else self.summed_norms()

    def summed_norms(self) -> torch.Tensor:
        """‖W_dec[f]‖, of a crosscoder summed over its heads."""
        w = self.p["W_dec"]
        return torch.stack([piece.norm(dim=1) for piece in w.split(self.heads or [w.shape[1]], dim=1)]).sum(0)

    def k(self, step: int) -> int:
        k, steps = self.sae["k"], self.sae.get("kAnnealSteps", 0)
        start = self.sae.get("kStart", k)
        return k if steps == 0 or step > steps else math.floor(start + (k - start) * (step - 1) / steps + 0.5)

    def forward(self, x: torch.Tensor, step: int) -> None:
        p, n = self.p, len(x)
        self.centred = x - p["b_dec"] if self.centre else x
        self.z = z = self.centred @ p["W_enc"].T + p["b_enc"]
        match self.architecture:
            case "relu":
                self.a = torch.relu(z)
            case "topk":
                keep = torch.zeros_like(z).scatter(1, z.topk(self.k(step), dim=1).indices, 1.0)
                self.a = torch.relu(z) * keep
            case "batchTopk":
                flat = torch.relu(z).flatten()
                best = flat.topk(round(self.k(step) * n))
                keep = torch.zeros_like(flat).scatter(0, best.indices, 1.0).view_as(z)
                self.a = torch.relu(z) * keep
                kept = best.values[best.values > 0]
                self.cutoff = kept.min().item() if len(kept) else None
            case "jumprelu":
                self.a = JumpReLU.apply(z, p["threshold"], self.bandwidth)
            case "gated":
                pi = z  # b_enc is b_gate
                w_mag = p["W_enc"] * torch.exp(p["r_mag"])[:, None]
                self.a = (pi > 0) * torch.relu(self.centred @ w_mag.T + p["b_mag"])

    @property
    def bandwidth(self) -> float:
        return self.sae["bandwidth"] * self.rho

    def decode(self, x: torch.Tensor, first: int) -> torch.Tensor:
        p = self.p
        y = self.a[:, :first] @ p["W_dec"][:first] + p["b_dec"]
        return y + x @ p["W_skip"].T if "W_skip" in p else y

    # ---- the loss ----

    def reconstruction(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        widths = self.sae.get("matryoshkaWidths", [])
        widths = widths if widths and widths[-1] == self.width else [*widths, self.width]
        losses = []
        for m in widths:
            self.r = y - self.decode(x, m)
            is_mean = self.architecture == "relu" and self.sae["loss"] == "mean"
            losses.append(self.r.square().mean() if is_mean else self.r.square().sum(1).mean())
        return torch.stack(losses).mean()

    def power(self, p: float) -> torch.Tensor:
        delta = 1e-3 * self.rho
        return ((self.a * self.norms() + delta) ** p - delta**p).sum()

    def sparsity(self, step: int) -> torch.Tensor:
        sae, n, rho = self.sae, len(self.z), self.rho
        factor = warmup(step, sae.get("sparsityWarmupSteps", 0)) * self.anneal_factor * self.control_factor
        match self.architecture:
            case "relu" if sae["loss"] == "mean":
                return factor * sae["l1"] * rho * self.a.mean()
            case "relu" if sae.get("pEnd", 1) < 1:
                return factor * sae["l1"] * rho * self.power(self.exponent) / n
            case "relu":
                return factor * sae["l1"] * rho * (self.a * self.norms()).sum(1).mean()
            case "gated":
                return factor * sae["l1"] * rho * (torch.relu(self.z) * self.norms()).sum(1).mean()
            case "jumprelu":
                c = factor * sae["l0Coefficient"] * rho**2
                if sae["sparsityLoss"] == "tanh":
                    return c * torch.tanh(sae["tanhScale"] / rho * self.a * self.norms()).sum(1).mean()
                l0 = Step.apply(self.z, self.p["threshold"], self.bandwidth).sum(1).mean()
                return c * l0 if sae["sparsityLoss"] == "step" else c * (l0 / sae["targetL0"] - 1) ** 2
        return torch.zeros((), dtype=self.dtype)

    def auxiliary(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sae, p, n = self.sae, self.p, len(self.z)
        dead = self.since >= self.train.get("deadAfterTokens", 100_000)
        zero = torch.zeros((), dtype=self.dtype)
        match self.architecture:
            case "gated":
                y_gate = torch.relu(self.z) @ p["W_dec"].detach() + p["b_dec"].detach()
                if "W_skip" in p:
                    y_gate = y_gate + x @ p["W_skip"].detach().T
                return sae.get("auxCoefficient", 1) * (y - y_gate).square().sum(1).mean()
            case "jumprelu" if sae.get("preActCoefficient", 0) > 0:
                on = torch.ones_like(dead) if sae["preActOn"] == "all" else dead
                short = torch.relu(p["threshold"] - self.z) * self.summed_norms().detach()
                return sae["preActCoefficient"] * self.rho * (short * on).sum(1).mean()
            case "topk" | "batchTopk" if sae["auxKCoefficient"] > 0 and dead.any():
                k = min(sae.get("auxK", D // 2), int(dead.sum()))
                best = self.z.masked_fill(~dead, -torch.inf).topk(k, dim=1).indices
                acts = torch.relu(self.z) * torch.zeros_like(self.z).scatter(1, best, 1.0)
                residual = self.r.detach()
                squared = (residual - acts @ p["W_dec"]).square().sum()
                share = min(int(dead.sum()) / (D / 2), 1.0)
                variance = lambda t: (t - t.mean(0)).square().sum()
                match sae["auxKVariant"]:
                    case "summed":
                        loss = squared / n
                    case "openai":
                        loss = squared / variance(residual)
                    case "eleuther":
                        loss = squared / variance(y) * share
                    case "saelens":
                        loss = squared / n * share
                return sae["auxKCoefficient"] * loss
        return zero

    # ---- the loop ----

    def adapt(self, step: int, rows: slice) -> None:
        """What moves after a step: thresholds of batch top-k, exponents, controlled coefficients, dead latents."""
        sae, n = self.sae, len(self.a)
        fired = self.a.detach() > 0
        l0 = fired.sum().item() / n
        if self.architecture == "batchTopk" and self.cutoff is not None:
            rate = sae.get("thresholdRate", 0.01)
            self.theta = self.cutoff if self.theta is None else (1 - rate) * self.theta + rate * self.cutoff
        if sae.get("pEnd", 1) < 1:
            # pUpdates changes after equally spaced steps; the coefficient makes up for each by the last 10 steps' means.
            begin, changes = sae.get("pAnnealStart", 0), sae["pUpdates"]
            spacing = (STEPS - begin) / (changes + 1)
            after = [math.floor(begin + (i + 1) * spacing + 1e-9) for i in range(changes)]
            coming = next((i for i, s in enumerate(after) if s >= step), None)
            if coming is not None and step > (after[coming - 1] if coming else begin):
                following = 1 + (sae["pEnd"] - 1) * (coming + 1) / changes
                self.queue.append((self.power(self.exponent).item(), self.power(following).item()))
                if step == after[coming]:
                    now, then = (sum(v) for v in zip(*self.queue[-10:]))
                    self.anneal_factor *= now / then
                    self.exponent, self.queue = following, []
        if "targetL0" in sae and sae.get("sparsityLoss") != "quadratic" and step > sae.get("sparsityWarmupSteps", 0):
            self.l0_memory = l0 if self.l0_memory is None else 0.9 * self.l0_memory + 0.1 * l0
            error = math.log(max(self.l0_memory, 1e-3) / sae["targetL0"])
            change = error - (error if self.l0_error is None else self.l0_error)
            self.l0_error = error
            y = self.target.original[rows]
            fvu = self.target.raw(self.r.detach(), rows).square().sum() / (y - y.mean(0)).square().sum()
            caution = max(0.0, 1 - fvu.item()) ** 2 if error > 0 else 1
            move = 0.02 * caution * min(1.0, max(-1.0, error)) + 2 * change
            self.control_factor = min(1e4, max(1e-4, self.control_factor * math.exp(min(0.1, max(-0.1, move)))))
        # A latent that fires in the batch's last row has not fired for 0 rows.
        last = torch.where(fired.any(0), n - 1 - fired.flip(0).int().argmax(0), -1)
        self.since = torch.where(last >= 0, n - 1 - last, self.since + n)

    def resample(self, adam: torch.optim.Adam, ema: dict[str, torch.Tensor], rows: slice, step: int) -> None:
        """Restarts dead latents in directions of rows drawn by their squared errors, in raw units, of the step just done."""
        train, p = self.train, self.p
        every, until = train.get("resampleEvery", 0), train.get("resampleUntil", 0)
        if every == 0 or step % every != 0 or (0 < until < step):
            return
        dead = self.since >= train["deadAfterTokens"]
        errors = self.target.raw(self.r.detach(), rows).square().sum(1).tolist()
        mean_norm = p["W_enc"][~dead].norm(dim=1).mean()
        rng = Rng(0, "resample", step)
        # Drawn one by one, without replacement, by the smallest of exponential times.
        drawn = sorted((-math.log(1 - rng.uniform()) / error, n) for n, error in enumerate(errors))
        for f, (_, n) in zip(dead.nonzero().flatten().tolist(), drawn):
            written = self.target.rows[rows][n] - p["b_dec"]
            read = self.input.rows[rows][n] if self.is_transcoder else written
            restart = {
                "W_dec": written / written.norm() * (1 if self.unit_norm else 0.1),
                "W_enc": read / read.norm() * mean_norm * 0.2,
                "b_enc": 0.0,
                "b_mag": 0.0,
                "r_mag": 0.0,
                "threshold": self.sae.get("initialThreshold", 0.1) * self.rho,
            }
            for name in restart.keys() & p.keys():
                p[name][f] = ema[name][f] = torch.as_tensor(restart[name], dtype=self.dtype)
                adam.state[p[name]]["exp_avg"][f] = adam.state[p[name]]["exp_avg_sq"][f] = 0
            self.since[f] = 0
            self.resampled += 1

    def fit(self) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
        p, train = self.p, self.train
        betas = (train.get("beta1", 0.9), train.get("beta2", 0.999))
        adam = torch.optim.Adam(p.values(), lr=1.0, betas=betas, eps=train.get("eps", 1e-8))
        curve: dict[str, list[float]] = {name: [] for name in ("reconstruction", "sparsity", "aux", "l0", "learningRate")}
        if self.architecture == "batchTopk":
            curve["threshold"] = []
        ema = {name: t.detach().clone() for name, t in p.items()}
        self.resampled = 0
        row = 0
        for step in range(1, STEPS + 1):
            rows = slice(row, row + BATCH)
            x, y = self.input.rows[rows], self.target.rows[rows]
            row = 0 if row + BATCH >= ROWS else row + BATCH
            self.forward(x, step)
            terms = [self.reconstruction(x, y), self.sparsity(step), self.auxiliary(x, y)]
            adam.zero_grad()
            sum(terms).backward()
            for t in p.values():
                t.grad = torch.zeros_like(t) if t.grad is None else t.grad
            if self.unit_norm:
                u = unit(p["W_dec"].detach())
                p["W_dec"].grad -= (p["W_dec"].grad * u).sum(1, keepdim=True) * u
            if "clipGradNorm" in train:
                torch.nn.utils.clip_grad_norm_(p.values(), train["clipGradNorm"])
            rate = learning_rate(train, step)
            adam.param_groups[0]["lr"] = rate
            with torch.no_grad():
                self.adapt(step, rows)
            adam.step()
            with torch.no_grad():
                if self.unit_norm:
                    p["W_dec"].copy_(unit(p["W_dec"]))
                if "threshold" in p:
                    p["threshold"].clamp_(min=0)
                for name, t in p.items():
                    decay = train.get("emaDecay", 0)
                    ema[name] = decay * ema[name] + (1 - decay) * t
                self.resample(adam, ema, rows, step)
            l0 = (self.a > 0).sum().item() / len(x)
            for name, v in zip(curve, [*(t.item() for t in terms), l0, rate, self.theta]):
                curve[name].append(v)
        curve["loss"] = [sum(v) for v in zip(curve["reconstruction"], curve["sparsity"], curve["aux"])]
        if train.get("emaDecay", 0) > 0:
            if self.unit_norm:
                ema["W_dec"] = unit(ema["W_dec"])
            return curve, ema
        return curve, {name: t.detach() for name, t in p.items()}


# ---- the cases ----

CASES: dict[str, dict] = {}


def case(name: str, sae: dict, train: dict | None = None, *, start: dict | None = None, target: str = "x", heads: list[int] | None = None, sparse: bool = False) -> None:
    """`start` says where a parameter's first values are when not in the tensor of its name; `sparse` that few
    latents are active, so that the trainer leaves its dense form."""
    architecture = sae["architecture"]
    unit_norm = sae.get("unitNormDecoder", architecture != "relu")
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    names += {"jumprelu": ["threshold"], "gated": ["b_mag", "r_mag"]}.get(architecture, [])
    first = {n: n for n in names}
    if unit_norm:
        first["W_dec"] = "W_dec.unit"
    if sparse:
        first |= {n: f"{n}.wide" for n in names if n != "b_dec"}
        if unit_norm:
            first["W_dec"] = "W_dec.wideUnit"
    if target == "y":
        first |= {"W_dec": "W_dec.wideOut" if sparse else "W_dec.outUnit" if unit_norm else "W_dec.out", "b_dec": "b_dec.out"}
    if sae.get("skip"):
        first["W_skip"] = "W_skip.out"
    first |= start or {}
    defaults = {"normalizeActivations": "none", "decoderBiasInit": "zero", "dSae": DATA[first["W_enc"]].shape[0]}
    if architecture in ("relu", "gated", "jumprelu"):
        defaults["coefficientUnits"] = "raw"
    CASES[name] = {
        "sae": {**defaults, **sae},
        "train": {"batchSize": BATCH, "steps": STEPS, "shuffle": False, "logEvery": 1, "learningRate": 3e-3, **(train or {})},
        "start": first,
        "input": "x",
        **({"target": target} if target != "x" else {}),
        **({"heads": heads} if heads else {}),
        **({"sparse": True} if sparse else {}),
    }


DEAD = {"W_enc": "W_enc.dead", "b_enc": "b_enc.dead"}
SOON = {"deadAfterTokens": 40}
relu = {"architecture": "relu", "loss": "sum", "l1": 0.4}
case("relu", relu)
case("relu-plain-input", relu | {"applyBDecToInput": False})
case("relu-mean", relu | {"loss": "mean", "l1": 0.3})
case("relu-mean-plain-input", relu | {"loss": "mean", "l1": 0.3, "applyBDecToInput": False})
case("relu-unit-norm", relu | {"unitNormDecoder": True})
case("relu-annealed", relu | {"pEnd": 0.4, "pAnnealStart": 6, "pUpdates": 3})
case("relu-annealed-unit-norm", relu | {"unitNormDecoder": True, "pEnd": 0.2, "pAnnealStart": 0, "pUpdates": 9})
case("relu-rising-coefficient", relu | {"sparsityWarmupSteps": 20})
case("relu-target-l0", relu | {"targetL0": 6, "sparsityWarmupSteps": 5})
case("relu-in-rms-units", relu | {"coefficientUnits": "inputRms"})
case("relu-annealed-in-rms-units", relu | {"coefficientUnits": "inputRms", "pEnd": 0.5, "pUpdates": 4})
case("relu-sparse", relu, sparse=True)
case("relu-annealed-sparse", relu | {"pEnd": 0.4, "pUpdates": 3}, sparse=True)
case("relu-unit-norm-sparse", relu | {"unitNormDecoder": True}, sparse=True)

gated = {"architecture": "gated", "l1": 0.4}
case("gated", gated)
case("gated-free-norms", gated | {"unitNormDecoder": False, "auxCoefficient": 0.7})
case("gated-plain-input", gated | {"applyBDecToInput": False})
case("gated-in-rms-units", gated | {"coefficientUnits": "inputRms"})
case("gated-sparse", gated, sparse=True)
case("gated-free-norms-sparse", gated | {"unitNormDecoder": False}, sparse=True)

topk = {"architecture": "topk", "k": 4, "auxKCoefficient": 0}
aux = {"auxKCoefficient": 1 / 32, "auxK": 3}
case("topk", topk)
case("topk-plain-input-free-norms", topk | {"applyBDecToInput": False, "unitNormDecoder": False})
case("topk-falling-k", topk | {"kStart": 17, "kAnnealSteps": 30})
case("topk-average-norm", topk | {"normalizeActivations": "expectedAverageNorm"})
for variant in ("summed", "openai", "eleuther", "saelens"):
    case(f"topk-aux-{variant}", topk | {"auxKVariant": variant, **aux}, SOON, start=DEAD)
case("topk-aux-as-many-as-dead", topk | {"auxKVariant": "saelens", "auxKCoefficient": 0.1}, SOON, start=DEAD)

batch_topk = {"architecture": "batchTopk", "k": 4, "auxKCoefficient": 0, "thresholdRate": 0.05}
case("batch-topk", batch_topk)
case("batch-topk-falling-k", batch_topk | {"kStart": 9, "kAnnealSteps": 20, "unitNormDecoder": False})
case("batch-topk-aux", batch_topk | {"auxKVariant": "openai", **aux}, SOON, start=DEAD)

jump = {"architecture": "jumprelu", "bandwidth": 0.5, "sparsityLoss": "step", "l0Coefficient": 0.1}
tanh = jump | {"sparsityLoss": "tanh", "tanhScale": 2.0}
case("jumprelu-step", jump)
case("jumprelu-step-free-norms", jump | {"unitNormDecoder": False, "applyBDecToInput": False})
case("jumprelu-tanh", tanh)
case("jumprelu-tanh-free-norms", tanh | {"unitNormDecoder": False})
case("jumprelu-tanh-in-rms-units", tanh | {"unitNormDecoder": False, "coefficientUnits": "inputRms"})
case("jumprelu-quadratic", jump | {"sparsityLoss": "quadratic", "targetL0": 6, "l0Coefficient": 2.0})
pre_act = {"preActCoefficient": 0.05, "preActOn": "dead"}
case("jumprelu-pre-act-dead", jump | pre_act, SOON, start=DEAD)
case("jumprelu-pre-act-dead-free-norms", tanh | pre_act | {"unitNormDecoder": False}, SOON, start=DEAD)
case("jumprelu-pre-act-all", jump | pre_act | {"preActOn": "all", "coefficientUnits": "inputRms"})
narrow = {"bandwidth": 0.1}
case("jumprelu-step-sparse", jump | narrow, sparse=True)
case("jumprelu-tanh-sparse", tanh | narrow | {"unitNormDecoder": False}, sparse=True)
case("jumprelu-quadratic-sparse", jump | narrow | {"sparsityLoss": "quadratic", "targetL0": 3}, sparse=True)
case("jumprelu-pre-act-sparse", jump | narrow | pre_act | {"applyBDecToInput": False}, SOON, sparse=True)

nested = {"matryoshkaWidths": [7, 19]}
case("matryoshka-topk", topk | nested | {"auxKVariant": "openai", **aux}, SOON, start=DEAD)
case("matryoshka-batch-topk", batch_topk | nested | {"unitNormDecoder": False})
case("matryoshka-jumprelu", jump | nested)
case("matryoshka-jumprelu-tanh", tanh | nested | {"unitNormDecoder": False})
case("matryoshka-relu", relu | nested)
case("matryoshka-relu-mean", relu | nested | {"loss": "mean"})
case("matryoshka-gated", gated | {"matryoshkaWidths": [1, 19, 40]})
wide = {"matryoshkaWidths": [30, 100]}
case("matryoshka-relu-sparse", relu | wide, sparse=True)
case("matryoshka-jumprelu-sparse", jump | narrow | wide, sparse=True)
case("matryoshka-gated-sparse", gated | wide, sparse=True)

case("clipped-topk", topk | {"auxKVariant": "summed", **aux}, {"clipGradNorm": 0.5, **SOON}, start=DEAD)
case("clipped-relu", relu, {"clipGradNorm": 1.0})
case("clipped-gated", gated, {"clipGradNorm": 1.0})
case("clipped-jumprelu", tanh | pre_act | {"preActOn": "all"}, {"clipGradNorm": 1.0})
case("clipped-jumprelu-sparse", jump | narrow | pre_act, {"clipGradNorm": 0.3, **SOON}, sparse=True)
case("cosine", topk, {"schedule": "cosine", "warmupSteps": 7, "finalLearningRate": 0.1, "learningRate": 0.01})
case("linear-and-decay", relu, {"schedule": "linear", "warmupSteps": 3, "finalLearningRate": 0.3, "decaySteps": 9, "beta1": 0.0, "beta2": 0.99})
case("averaged-topk", topk | {"unitNormDecoder": False}, {"emaDecay": 0.9})
case("averaged-topk-unit-norm", topk, {"emaDecay": 0.95, "learningRate": 0.01})
case("averaged-relu", relu, {"emaDecay": 0.95})
case("averaged-jumprelu", jump, {"emaDecay": 0.9, "learningRate": 0.01})

case("relu-rms", relu | {"normalizeActivations": "rms", "l1": 0.3})
case("topk-layer-norm", topk | {"normalizeActivations": "layerNorm", "auxKVariant": "eleuther", **aux}, SOON, start=DEAD)
case("relu-layer-norm", relu | {"normalizeActivations": "layerNorm", "applyBDecToInput": False})
case("topk-whitening", topk | {"normalizeActivations": "whitening", "auxKVariant": "openai", **aux}, SOON, start=DEAD)
case("jumprelu-whitening", jump | {"normalizeActivations": "whitening", "unitNormDecoder": False})

case("transcoder-topk", topk | {"auxKVariant": "eleuther", **aux}, SOON, start=DEAD, target="y")
case("transcoder-batch-topk", batch_topk | {"normalizeActivations": "expectedAverageNorm"}, target="y")
case("transcoder-relu", relu, target="y")
case("transcoder-relu-rms", relu | {"normalizeActivations": "rms", "pEnd": 0.5, "pUpdates": 4}, target="y")
case("transcoder-jumprelu", tanh | pre_act | {"unitNormDecoder": False, "coefficientUnits": "inputRms"}, SOON, start=DEAD, target="y")
case("transcoder-jumprelu-sparse", jump | narrow | {"unitNormDecoder": False}, target="y", sparse=True)
case("transcoder-gated", gated | {"unitNormDecoder": False}, target="y")
skip = {"skip": True}
case("skip-transcoder-topk", topk | skip | {"auxKVariant": "openai", **aux}, SOON, start=DEAD, target="y")
case("skip-transcoder-relu-whitening", relu | skip | {"normalizeActivations": "whitening"}, {"clipGradNorm": 2.0}, target="y")
case("skip-transcoder-gated", gated | skip | nested, {"emaDecay": 0.9}, target="y")

case("crosscoder-topk", topk | {"normalizeActivations": "rms", "auxKVariant": "saelens", **aux}, SOON, start=DEAD, heads=[7, 7])
case("crosscoder-batch-topk", batch_topk | {"normalizeActivations": "expectedAverageNorm", "unitNormDecoder": False}, heads=[7, 7])
case("crosscoder-relu", relu, heads=[7, 7])
case("crosscoder-relu-annealed", relu | {"pEnd": 0.4, "pAnnealStart": 6, "pUpdates": 3}, heads=[2] * 7)
case("crosscoder-relu-sparse", relu, heads=[2] * 7, sparse=True)
case("crosscoder-gated", gated | nested | {"unitNormDecoder": False}, heads=[7, 7])
case("crosscoder-jumprelu", tanh | pre_act | {"unitNormDecoder": False}, SOON, start=DEAD, heads=[7, 7])
case("crosscoder-jumprelu-sparse", jump | narrow | pre_act, SOON, heads=[7, 7], sparse=True)

again = {**SOON, "resampleEvery": 7}
case("resampled-relu", relu, {"deadAfterTokens": 180, "resampleEvery": 12, "resampleUntil": 24}, sparse=True)
case("resampled-topk", topk, {**SOON, "resampleEvery": 5, "resampleUntil": 30}, start=DEAD)
case("resampled-jumprelu", jump | {"coefficientUnits": "inputRms", "initialThreshold": 0.4}, again, start=DEAD)
case("resampled-gated", gated | {"unitNormDecoder": False}, {**again, "emaDecay": 0.9}, start=DEAD)
case("resampled-layer-norm", topk | {"normalizeActivations": "layerNorm"}, again, start=DEAD)
case("resampled-transcoder", topk | {"normalizeActivations": "whitening"}, again, start=DEAD, target="y")


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    tensors = dict(DATA)
    files = {}
    for name, spec in CASES.items():
        if wanted not in name:
            continue
        fine, rough = (
            Run(spec["sae"], spec["train"], spec["start"], spec.get("target", "x"), spec.get("heads", []), dtype)
            for dtype in (torch.float64, torch.float32)
        )
        (curve, final), (coarse, _) = fine.fit(), rough.fit()
        apart = max(abs(a / b - 1) for a, b in zip(coarse["loss"], curve["loss"]))
        aux_steps = sum(v > 0 for v in curve["aux"])
        print(f"{name:34} loss {curve['loss'][0]:.4f} → {curve['loss'][-1]:.4f}  L0 {curve['l0'][0]:.1f} → {curve['l0'][-1]:.1f}  "
              f"sparsity {curve['sparsity'][-1]:.4f}  aux > 0 in {aux_steps}  resampled {fine.resampled}  f32 apart by {apart:.1e}")
        if apart > 2e-5:
            sys.exit(f"{name}: float32 and float64 part; choose other numbers")
        tensors |= {f"{name}/{parameter}": t for parameter, t in final.items()}
        curve = {key: [float(f"{v:.8g}") for v in values] for key, values in curve.items()}
        lines = [f"    {json.dumps(key)}: {json.dumps(values)}" for key, values in curve.items()]
        head = json.dumps(spec, indent=2)[:-2]
        files[name] = head + ',\n  "curve": {\n' + ",\n".join(lines) + "\n  }\n}\n"
    if wanted:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, text in files.items():
        (FOLDER / f"{name}.json").write_text(text)
    save_file({name: t.float().contiguous() for name, t in tensors.items()}, str(FOLDER / "weights.safetensors"))


main()
