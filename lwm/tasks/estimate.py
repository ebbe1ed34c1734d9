"""What a run would cost, from a few of its own steps: FLOPs, memory and time."""

import resource
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lwm.models.cores import whole_batches
from lwm.tasks.base import TrainingError

WARM_UP, TIMED = 2, 10
"""Optimizer steps before the clock runs, and while it does; one more is counted."""

TRIAL_STEPS = WARM_UP + TIMED + 1


@dataclass(frozen=True)
class Estimate:
    """Cost of training on one device.

    Args:
        flops_per_sample: of matrix products and convolutions, forward and backward (a multiplication and an addition
            are two), recomputed activations included, element-wise work not.
        peak_bytes: of memory: what tensors held on a GPU; on a CPU the process as a whole.
        samples_per_second: of one device, loading and optimizer included.
        batch: samples in an optimizer step of one device.
    """

    flops_per_sample: float
    peak_bytes: int
    samples_per_second: float
    batch: float

    def seconds(self, samples: int, devices: int = 1) -> float:
        """Time for ``samples`` if devices, each with the trial's batch, lose nothing to one another."""
        return samples / (self.samples_per_second * devices)

    def lines(self, samples: int, devices: int) -> list[str]:
        """What to say about a run over ``samples`` on 1, 2, 4 ... up to ``devices`` devices."""
        rate = self.flops_per_sample * self.samples_per_second
        counts = sorted({1, devices, *(2**power for power in range(devices.bit_length()))})
        times = ", ".join(f"{count}: {_duration(self.seconds(samples, count))}" for count in counts)
        return [
            f"trial: {TIMED} steps of {self.batch:g} samples a device after {WARM_UP} of warm-up",
            f"{self.flops_per_sample / 1e9:.4g} GFLOP a sample (matrix products, forward and backward)",
            f"peak memory {self.peak_bytes / 2**30:.2f} GiB a device (on a CPU: the process)",
            f"{self.samples_per_second:.4g} samples/s a device ({rate / 1e9:.4g} GFLOP/s)",
            f"{samples} samples: {samples * self.flops_per_sample:.3g} FLOP; training time by devices: {times}",
            "assumed: devices like this one, the same batch on each, nothing lost to communication or validation",
        ]


class Trial(pl.Callback):
    """Measures a fit of ``TRIAL_STEPS`` optimizer steps; see :meth:`result`."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0
        self.samples = self.batches = self.counted_samples = self.flops = self.peak_bytes = 0
        self._counting = ExitStack()
        self._counter: FlopCounterMode | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock after the warm-up, and count in the last step."""
        if trainer.global_step == WARM_UP and not self.started:
            self.started = _now()
        elif trainer.global_step == WARM_UP + TIMED and self._counter is None:
            # Fused attention on a CPU is unknown to torch's counter, and the plain one takes more memory: hence last.
            self._counter = FlopCounterMode(display=False)
            self._counting.enter_context(whole_batches())
            self._counting.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._counting.enter_context(self._counter)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Count samples, and stop the clock after the last timed step."""
        size = len(next(iter(batch.values())))
        if self._counter is not None:
            self.counted_samples += size
        elif self.started:
            self.samples += size
            self.batches += 1
            if trainer.global_step == WARM_UP + TIMED:
                self.seconds = _now() - self.started
                self.peak_bytes = _peak_bytes()

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """End the count."""
        self._counting.close()
        if self._counter is not None:
            self.flops = self._counter.get_total_flops()

    def result(self) -> Estimate:
        """The estimate; TrainingError when the data gave too few batches for the trial."""
        if not (self.seconds and self.counted_samples):
            raise TrainingError("a trial that ended before its last step", f"{TRIAL_STEPS} steps", "give it more data")
        per_sample = self.flops / self.counted_samples
        return Estimate(per_sample, self.peak_bytes, self.samples / self.seconds, self.samples / TIMED)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
