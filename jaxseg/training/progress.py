"""What a run shows: one line that stays readable, and curves for TensorBoard.

Of several hosts only the first one speaks and writes.
"""

import math
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxseg.distributed import process_index
from jaxseg.training.curves import Curves


class Progress:
    """Prints and records the metrics of a run from step `start` to step `steps`."""

    def __init__(self, workdir: pathlib.Path, start: int, steps: int, batch_size: int):
        self._speaks = process_index() == 0
        if self._speaks:
            self._curves = Curves(workdir / "tensorboard", start)
        self._steps, self._batch_size = steps, batch_size
        self._last_step, self._last_time = start, time.monotonic()
        self._rate = self._waited = 0.0
        self._compiled = False

    def waited_for_data(self, seconds: float) -> None:
        """Notes how long a step's batch was waited for."""
        self._waited += seconds

    def paused(self, seconds: float) -> None:
        """Notes time that was spent on other things than steps."""
        self._last_time += seconds

    def show(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Reports the metrics of the step just done; `step` counts finished steps."""
        if not self._speaks:
            return
        now = time.monotonic()
        passed = max(now - self._last_time, 1e-9)
        rate = (step - self._last_step) / passed
        if self._rate:
            rate = 0.5 * self._rate + 0.5 * rate
        # The first stretch holds the compilation: the moving rate starts from the second.
        if self._compiled:
            self._rate = rate
        self._compiled = True
        speed, left = rate * self._batch_size, (self._steps - step) / max(rate, 1e-9)
        print(format_line(step, self._steps, metrics, learning_rate, speed, left), flush=True)
        curves = {f"train/{name}": value for name, value in metrics.items()} | {
            "train/learning_rate": learning_rate,
            "train/images_per_second": speed,
            "train/share_of_time_waiting_for_data": self._waited / passed,
        }
        memory = device_memory()
        if memory is not None:
            curves["train/device_memory_GiB"] = memory / 2**30
        self._curves.add(step, {k: v for k, v in curves.items() if math.isfinite(v)}, {})
        self._last_step, self._last_time, self._waited = step, now, 0.0

    def show_validation(
        self, step: int, figures: Mapping[str, float | None], pictures: Sequence[np.ndarray]
    ) -> None:
        """Records an evaluation: its figures, and uint8 pictures `[h, w, 3]`."""
        if not self._speaks:
            return
        known = {f"val/{name}": value for name, value in figures.items() if value is not None}
        self._curves.add(step, known, {f"val/{n}": picture for n, picture in enumerate(pictures)})

    def close(self) -> None:
        if self._speaks:
            self._curves.close()


def device_memory() -> int | None:
    """The most bytes that a device of this host has held so far; None where it does not tell."""
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
    """`step 120/900  loss 1.234 (mask 0.4, ...)  lr 0.01  34.5 img/s  3:21 left`."""
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
