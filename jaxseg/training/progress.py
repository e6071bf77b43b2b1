"""The progress of a run: readable lines, and scalars for TensorBoard and `metrics.jsonl`.

Process 0 prints and writes; on the other processes all calls do nothing.
"""

import math
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxseg.distributed import process_index
from jaxseg.training.metrics_file import MetricsFile
from jaxseg.training.summary import SummaryWriter


class Progress:
    """Prints and records the metrics of a run from step `start` to step `steps`."""

    def __init__(self, workdir: pathlib.Path, start: int, steps: int, batch_size: int):
        self._active = process_index() == 0
        if self._active:
            self._file = MetricsFile(workdir / "metrics.jsonl", start)
            self._writer = SummaryWriter(workdir / "tensorboard", start)
        self._steps, self._batch_size = steps, batch_size
        self._last_step, self._last_time = start, time.monotonic()
        self._steps_per_second = self._data_wait = 0.0
        self._compiled = False
        self._first_seconds = 0.0

    def show_compilation(self, bucket: Sequence[int], number: int, count: int) -> None:
        """Print that the step is compiled for `bucket`, `(height, width)`, one of `count`."""
        if self._active:
            which = f" ({number} of {count})" if count > 1 else ""
            print(f"compiling the training step for {bucket[0]}x{bucket[1]}{which} ...", flush=True)

    def show_first_step(self, step: int, loss: jax.Array | np.generic, started: float) -> None:
        """Wait for the first step since the start, and print its loss and time.

        `started` is the `time.monotonic()` before its compilation.
        """
        if self._active:
            value = float(loss)
            now = time.monotonic()
            seconds = self._first_seconds = now - started
            # The rate is that of the steps after it.
            self._last_step, self._last_time, self._data_wait = step, now, 0.0
            print(
                f"step {step}/{self._steps}  loss {value:.3f}  after {seconds:.1f} s, compilation "
                "included",
                flush=True,
            )

    def has_evaluation(self, step: int) -> bool:
        """Return whether process 0 has recorded an evaluation after `step` steps."""
        return self._active and self._file.has(step, "val/")

    def add_data_wait(self, seconds: float) -> None:
        """Add the time that a step waited for its batch."""
        self._data_wait += seconds

    def exclude_time(self, seconds: float) -> None:
        """Exclude time that was not spent on steps, such as an evaluation's, from the rate."""
        self._last_time += seconds

    def show(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Print and record the metrics of the step just done; `step` counts finished steps."""
        if not self._active:
            return
        now = time.monotonic()
        elapsed = max(now - self._last_time, 1e-9)
        rate = (step - self._last_step) / elapsed or 1 / max(self._first_seconds, 1e-9)
        if self._steps_per_second:
            rate = 0.5 * self._steps_per_second + 0.5 * rate
        # The first interval includes the compilation: the moving rate starts from the second.
        if self._compiled:
            self._steps_per_second = rate
        self._compiled = True
        images_per_second = rate * self._batch_size
        seconds_left = (self._steps - step) / max(rate, 1e-9)
        line = format_line(
            step, self._steps, metrics, learning_rate, images_per_second, seconds_left
        )
        print(line, flush=True)
        scalars = {f"train/{name}": value for name, value in metrics.items()} | {
            "train/learning_rate": learning_rate,
            "train/images_per_second": images_per_second,
            "train/data_wait_fraction": self._data_wait / elapsed,
        }
        memory = device_memory()
        if memory is not None:
            scalars["train/device_memory_GiB"] = memory / 2**30
        self._file.write(step, scalars)
        finite = {tag: value for tag, value in scalars.items() if math.isfinite(value)}
        self._writer.write(step, finite, {})
        self._last_step, self._last_time, self._data_wait = step, now, 0.0

    def show_validation(
        self,
        step: int,
        metrics: Mapping[str, float | None],
        pictures: Sequence[np.ndarray],
        raw_metrics: Mapping[str, float | None] | None = None,
    ) -> None:
        """Record an evaluation after `step` steps.

        Args:
            step: number of finished steps.
            metrics: recorded as `val/<name>`, unless None (no objects of that size).
            pictures: uint8 `[h, w, 3]`, recorded as `val/<number>`.
            raw_metrics: the same metrics of the parameters beside their EMA, recorded as
                `val_raw/<name>`.
        """
        if not self._active:
            return
        tagged = {f"val/{name}": value for name, value in metrics.items()}
        tagged |= {f"val_raw/{name}": value for name, value in (raw_metrics or {}).items()}
        self._file.write(step, tagged)
        scalars = {tag: value for tag, value in tagged.items() if value is not None}
        self._writer.write(
            step, scalars, {f"val/{n}": picture for n, picture in enumerate(pictures)}
        )

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._active:
            self._writer.close()


def device_memory() -> int | None:
    """Return the peak bytes in use on any device of this process; None if devices report none."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks) if peaks else None


def format_line(
    step: int,
    steps: int,
    metrics: Mapping[str, float],
    learning_rate: float,
    images_per_second: float,
    seconds_left: float,
) -> str:
    """Return `step 120/900  loss 1.234 (mask 0.4, ...)  lr 0.01  34.5 img/s  3:21 left`."""
    terms = ", ".join(
        f"{name} {value:.3f}"
        for name, value in metrics.items()
        if name not in ("loss", "grad_norm")
    )
    minutes, seconds = divmod(int(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return (
        f"step {step:>{len(str(steps))}}/{steps}  loss {metrics['loss']:.3f} ({terms})  "
        f"lr {learning_rate:.2g}  {images_per_second:.1f} img/s  {clock} left"
    )
