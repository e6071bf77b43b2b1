"""Progress lines on standard output, and scalars and images in TensorBoard's files."""

import errno
import math

import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter

from jaxseg.training import progress
from jaxseg.training.progress import Progress
from tests.event_files import read_events

METRICS = {"loss": 1.5, "mask": 0.5, "box": math.nan, "grad_norm": 2.0}


def read_scalars(folder):
    """Return `{(tag, step): value}`."""
    return {
        (value.tag, event.step): value.simple_value
        for event in read_events(folder / "tensorboard")
        for value in event.summary.value
    }


def test_scalars_are_on_the_disk_before_the_next_step(tmp_path):
    progress_log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    progress_log.add_data_wait(1e-6)
    progress_log.show(5, METRICS, learning_rate=0.25)
    found = read_scalars(tmp_path)
    assert found["train/loss", 5] == 1.5
    assert found["train/mask", 5] == 0.5
    assert found["train/grad_norm", 5] == 2
    assert found["train/learning_rate", 5] == 0.25
    assert found["train/images_per_second", 5] > 0
    assert 0 < found["train/data_wait_fraction", 5] < 1
    assert not any("box" in name for name, _ in found)  # only finite values
    progress_log.close()


def test_device_memory_is_recorded_where_the_device_reports_it(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "device_memory", lambda: 3 * 2**29)
    progress_log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    progress_log.show(5, METRICS, learning_rate=0.25)
    progress_log.close()
    assert read_scalars(tmp_path)["train/device_memory_GiB", 5] == 1.5


def test_an_evaluation_records_its_metrics_and_pictures(tmp_path):
    progress_log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    picture = np.zeros((6, 8, 3), np.uint8)
    progress_log.show_validation(5, {"mask_AP": 0.5, "mask_AP_small": None}, [picture])
    progress_log.close()
    found = {v.tag: v for e in read_events(tmp_path / "tensorboard") for v in e.summary.value}
    assert found.keys() == {"val/mask_AP", "val/0"}
    assert (found["val/0"].image.height, found["val/0"].image.width) == (6, 8)


def test_metrics_of_the_parameters_beside_an_ema_have_tags_of_their_own(tmp_path):
    progress_log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    progress_log.show_validation(5, {"segm/AP": 0.5}, [], {"segm/AP": 0.25, "segm/APs": None})
    progress_log.close()
    assert read_scalars(tmp_path) == {("val/segm/AP", 5): 0.5, ("val_raw/segm/AP", 5): 0.25}


def test_a_resumed_run_replaces_the_scalars_after_its_start(tmp_path):
    for start in (0, 3):
        Progress(tmp_path, start, steps=10, batch_size=4).close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    starts = [e for e in read_events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert starts[-1].step == 4
    assert starts[-1].session_log.status == starts[-1].session_log.START


def test_an_error_of_the_disk_names_the_folder(tmp_path, monkeypatch):
    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    progress_log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(EventsWriter, "flush", flush)
        with pytest.raises(OSError, match=f"written to {tmp_path}/tensorboard: No space left"):
            progress_log.show(5, METRICS, learning_rate=0.25)
    progress_log.close()


def test_only_process_0_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "process_index", lambda: 1)
    progress_log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    progress_log.show(5, METRICS, learning_rate=0.25)
    progress_log.show_validation(5, {"mask_AP": 0.5}, [])
    progress_log.close()
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "clock"), [(75.0, "1:15 left"), (3.0 * 3600 + 61, "3:01:01 left")]
)
def test_the_line_shows_the_time_left(seconds, clock):
    line = progress.format_line(20, 900, METRICS, 0.25, 34.52, seconds)
    assert line == (f"step  20/900  loss 1.500 (mask 0.500, box nan)  lr 0.25  34.5 img/s  {clock}")


def test_the_time_left_excludes_compilation_and_evaluations(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress_log = Progress(tmp_path, start=0, steps=100, batch_size=4)
    now[0] = 60.0  # compilation
    progress_log.show(10, METRICS, 0.25)
    now[0] += 10
    progress_log.show(20, METRICS, 0.25)
    now[0] += 110
    progress_log.exclude_time(100.0)
    progress_log.show(30, METRICS, 0.25)
    progress_log.close()
    lines = capsys.readouterr().out.splitlines()
    assert "4.0 img/s  1:20 left" in lines[1]
    assert "4.0 img/s  1:10 left" in lines[2]


def test_the_rate_is_that_of_the_steps_after_the_first(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress_log = Progress(tmp_path, start=0, steps=101, batch_size=4)
    progress_log.add_data_wait(50.0)
    progress_log.show_compilation((64, 64), 1, 1)
    progress_log.show_compilation((64, 96), 2, 2)
    now[0] = 60.0
    progress_log.show_first_step(1, np.float32(1.5), started=20.0)
    now[0] = 70.0
    progress_log.show(11, METRICS, 0.25)
    progress_log.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "compiling the training step for 64x64 ...",
        "compiling the training step for 64x96 (2 of 2) ...",
        "step 1/101  loss 1.500  after 40.0 s, compilation included",
    ]
    assert "4.0 img/s  1:30 left" in lines[3]
    assert read_scalars(tmp_path)["train/data_wait_fraction", 11] == 0


def test_a_progress_line_for_the_first_step_has_its_rate(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress_log = Progress(tmp_path, start=0, steps=5, batch_size=4)
    now[0] = 2.0
    progress_log.show_first_step(1, np.float32(1.5), started=0.0)
    progress_log.show(1, METRICS, 0.25)
    progress_log.close()
    assert "2.0 img/s  0:08 left" in capsys.readouterr().out
