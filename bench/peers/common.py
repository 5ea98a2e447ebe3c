"""What every peer's script needs: the data, the threads, and a step at a time on request.

A script is started by bench/run.mjs with one JSON argument. It makes its trainer, says so in one
line on stdout, and from then on answers each line {"steps": n} with the milliseconds of n steps, so
that competitors can take turns on one machine. Whatever the libraries print goes to stderr.
"""

import json
import os
import resource
import sys
import time

# Before torch is imported: both read their thread counts once.
settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(settings.get("threads", 2))

_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(settings.get("threads", 2))
torch.manual_seed(0)


def answer(message: dict) -> None:
    _answers.write(json.dumps(message) + "\n")
    _answers.flush()


def peak_rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Batches:
    """The rows of a file of float32, in stored order, over and over, `rows` at a time."""

    def __init__(self, path: str, width: int, rows: int):
        data = np.fromfile(path, dtype=np.float32).reshape(-1, width)
        self.data = torch.from_numpy(data)
        self.rows = rows
        self.at = 0

    def next(self) -> torch.Tensor:
        if self.at + self.rows > len(self.data):
            self.at = 0
        batch = self.data[self.at : self.at + self.rows]
        self.at += self.rows
        return batch

    def __iter__(self):
        return self

    __next__ = next


def requests():
    """Numbers of steps asked for, until stdin ends."""
    for line in sys.stdin:
        yield json.loads(line)["steps"]


def serve(step, about: dict | None = None) -> None:
    """Runs `step()` as often as asked. What it returns (metrics) is reported once per request."""
    answer({"ready": True, "torch": torch.__version__, **(about or {})})
    for steps in requests():
        times, metrics = [], {}
        for _ in range(steps):
            start = time.perf_counter()
            metrics = step() or {}
            times.append((time.perf_counter() - start) * 1000)
        answer({"ms": times, "rssMiB": peak_rss_mib(), **metrics})
