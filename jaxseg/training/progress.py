"""What a run shows: one line that stays readable, and curves for TensorBoard."""

import pathlib
import sys
import time
from collections.abc import Mapping

import tensorboardX


class Progress:
    """Prints and records the metrics of a run from step `start` to step `steps`."""

    def __init__(self, workdir: pathlib.Path, start: int, steps: int, batch_size: int):
        self._writer = tensorboardX.SummaryWriter(str(workdir / "tensorboard"))
        self._steps, self._batch_size = steps, batch_size
        self._last_step, self._last_time = start, time.monotonic()
        self._rate = 0.0

    def show(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Reports the metrics of the step just done; `step` counts finished steps."""
        now = time.monotonic()
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        # The first stretch holds the compilation: the estimate starts from the second.
        self._rate = 0.5 * self._rate + 0.5 * rate if self._rate else rate
        self._last_step, self._last_time = step, now
        speed = self._rate * self._batch_size
        left = (self._steps - step) / max(self._rate, 1e-9)
        print(format_line(step, self._steps, metrics, learning_rate, speed, left), flush=True)
        for name, value in metrics.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.add_scalar("train/learning_rate", learning_rate, step)
        self._writer.add_scalar("train/images_per_second", speed, step)

    def close(self) -> None:
        self._writer.close()


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


def say(text: str) -> None:
    """A message of the run beside its progress lines."""
    print(text, file=sys.stderr, flush=True)
