import errno
import math

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter

from jaxseg.training import progress
from jaxseg.training.progress import Progress
from tests.event_files import events

METRICS = {"loss": 1.5, "mask": 0.5, "box": math.nan, "grad_norm": 2.0}


def points(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder / "tensorboard")
        for value in event.summary.value
    }


def test_curves_are_on_the_disk_before_the_next_step(tmp_path):
    shown = Progress(tmp_path, start=0, steps=10, batch_size=4)
    shown.waited_for_data(1e-6)
    shown.show(5, METRICS, learning_rate=0.25)
    found = points(tmp_path)
    assert found["train/loss", 5] == 1.5
    assert found["train/mask", 5] == 0.5
    assert found["train/grad_norm", 5] == 2
    assert found["train/learning_rate", 5] == 0.25
    assert found["train/images_per_second", 5] > 0
    assert 0 < found["train/share_of_time_waiting_for_data", 5] < 1
    assert not any("box" in name for name, _ in found)  # what is not finite has no place
    shown.close()


def test_device_memory_is_a_curve_where_the_device_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "device_memory", lambda: 3 * 2**29)
    shown = Progress(tmp_path, start=0, steps=10, batch_size=4)
    shown.show(5, METRICS, learning_rate=0.25)
    shown.close()
    assert points(tmp_path)["train/device_memory_GiB", 5] == 1.5


def test_an_evaluation_shows_its_figures_and_pictures(tmp_path):
    shown = Progress(tmp_path, start=0, steps=10, batch_size=4)
    picture = np.zeros((6, 8, 3), np.uint8)
    shown.show_validation(5, {"mask_AP": 0.5, "mask_AP_small": None}, [picture])
    shown.close()
    found = {v.tag: v for event in events(tmp_path / "tensorboard") for v in event.summary.value}
    assert found.keys() == {"val/mask_AP", "val/0"}
    assert (found["val/0"].image.height, found["val/0"].image.width) == (6, 8)


def test_a_resumed_run_replaces_the_curves_after_its_start(tmp_path):
    for start in (0, 3):
        Progress(tmp_path, start, steps=10, batch_size=4).close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    starts = [e for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert starts[-1].step == 4
    assert starts[-1].session_log.status == starts[-1].session_log.START


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    shown = Progress(tmp_path, start=0, steps=10, batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(EventsWriter, "flush", full)
        with pytest.raises(OSError, match=f"written to {tmp_path}/tensorboard: No space left"):
            shown.show(5, METRICS, learning_rate=0.25)
    shown.close()


def test_only_the_first_host_speaks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "host_index", lambda: 1)
    shown = Progress(tmp_path, start=0, steps=10, batch_size=4)
    shown.show(5, METRICS, learning_rate=0.25)
    shown.show_validation(5, {"mask_AP": 0.5}, [])
    shown.close()
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "clock"), [(75.0, "1:15 left"), (3.0 * 3600 + 61, "3:01:01 left")]
)
def test_the_line_tells_how_long_is_left(seconds, clock):
    line = progress.format_line(20, 900, METRICS, 0.25, 34.52, seconds)
    assert line == (f"step  20/900  loss 1.500 (mask 0.500, box nan)  lr 0.25  34.5 img/s  {clock}")


def test_the_end_is_estimated_without_the_compilation_and_evaluations(
    tmp_path, monkeypatch, capsys
):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(tmp_path, start=0, steps=100, batch_size=4)
    now[0] = 60.0  # compilation
    shown.show(10, METRICS, 0.25)
    now[0] += 10
    shown.show(20, METRICS, 0.25)
    now[0] += 110
    shown.paused(100.0)
    shown.show(30, METRICS, 0.25)
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert "4.0 img/s  1:20 left" in lines[1]
    assert "4.0 img/s  1:10 left" in lines[2]
