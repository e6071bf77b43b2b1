"""The program `jaxseg`: help, usage errors, exit statuses and the demo."""

import signal
import subprocess
import sys

import pytest

from jaxseg import distributed
from jaxseg.commands import cli
from jaxseg.commands import eval as eval_command
from jaxseg.commands import train as train_command
from jaxseg.commands.cli import main
from jaxseg.training.preemption import Preempted
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "DIR", "absent.png", "--out", "x"], "no image file absent.png"),
        (["eval", "absent"], "no workdir absent"),
        (["train", "absent.py", "--workdir", "x"], "no experiment file absent.py"),
    ],
)
def test_bad_input_is_reported_on_one_line_with_status_1(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "train",
        "eval",
        "predict",
        "data import",
        "data check",
        "data build",
        "weights export",
        "bench",
    ],
)
def test_help_fits_a_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(len(line) for line in lines if not line.startswith("usage:")) <= 80


def test_help_lists_all_commands_and_published_models(capsys):
    for arguments, names in (
        ([], ("demo", "train", "eval", "predict", "data", "weights")),
        (["weights", "import"], ("maskrcnn_resnet50_fpn", "mmdet_solov2_r50_fpn", "resnet18")),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        printed = capsys.readouterr().out
        for name in names:
            assert name in printed


def test_help_does_not_import_jax():
    code = (
        "import sys; from jaxseg.commands.cli import main\n"
        "try: main(['--help'])\n"
        "finally: assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_help_after_an_experiment_shows_its_fields(capsys):
    experiment = ROOT / "experiments" / "solov2_light_r50_fpn_3x.py"
    with pytest.raises(SystemExit) as stop:
        main(["train", str(experiment), "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--model.head-channels INT" in printed
    assert "--data.source.path" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "x", "--bogus", "1"],
        ["predict", "x", "--out", "x"],
        ["weights", "import", "x.pth", "--model", "resnet19", "--out", "x"],
        ["data"],
        [],
    ],
)
def test_usage_errors_have_status_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "x.py"], "trian: there is no such command: did you mean jaxseg train?"),
        (["import", "x"], "did you mean jaxseg data import or jaxseg weights import? "),
        (["data", "chek", "x"], "did you mean jaxseg data check? `jaxseg data --help` lists all"),
        (["dat"], "dat: there is no such command: did you mean jaxseg data? "),
        (["xyz"], "xyz: there is no such command: `jaxseg --help` lists all"),
        (["train", "x.py", "--wordir", "x"], "no flag --wordir: did you mean --workdir?"),
        (["train", "x.py", "--wordir=x"], "no flag --wordir: did you mean --workdir?"),
    ],
)
def test_misspelled_commands_and_flags_are_answered_with_suggestions(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_choices_are_listed_in_their_order_without_none(capsys):
    for arguments, listed in (
        (["import", "x", "--model", "x"], "('maskrcnn_resnet50_fpn', 'maskrcnn_resnet50_fpn_v2',"),
        (["export", "x", "--names", "x"], "('torchvision', 'jaxseg')"),
    ):
        with pytest.raises(SystemExit):
            main(["weights", *arguments, "--out", "x"])
        assert listed in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(closed):
    command = f"{sys.executable} -m jaxseg experiments {closed}"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-processes", "2"], "need --coordinator-address"),
        (["--process-id", "0"], "need --coordinator-address"),
        (["--coordinator-address", "host", "--num-processes", "2", "--process-id", "0"], "PORT"),
        (["--coordinator-address", "host:1", "--num-processes", "2"], "needs --num-processes and"),
        (["--distributed", "--num-processes", "2", "--process-id", "2"], "--process-id 2 must be"),
        (["--distributed", "--num-processes", "0"], "at least 1"),
    ],
)
def test_wrong_flags_of_processes_are_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "x.py", "--workdir", "x", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--workdir", "x", "--train.stepz", "3"]])
def test_usage_errors_come_before_other_processes_are_joined(arguments, monkeypatch, capsys):
    joined = []
    monkeypatch.setattr(distributed, "connect", lambda *_: joined.append(True))
    experiment = ROOT / "experiments" / "solov2_light_r50_fpn_3x.py"
    with pytest.raises(SystemExit) as stop:
        main(["train", str(experiment), *PROCESSES, *arguments])
    assert stop.value.code == 2
    assert not joined


PROCESSES = ["--coordinator-address", "host:1", "--num-processes", "2", "--process-id", "0"]


def test_a_broken_experiment_file_ends_all_processes(tmp_path, monkeypatch, capsys):
    """A process that fails before it joins would let the others wait for five minutes."""
    (tmp_path / "broken.py").write_text("experiment = (")
    calls = []
    monkeypatch.setattr(distributed, "connect", lambda *_: calls.append("joined"))
    monkeypatch.setattr(cli.os, "_exit", lambda status: calls.append(status))
    main(["train", str(tmp_path / "broken.py"), *PROCESSES, "--workdir", str(tmp_path / "run")])
    assert calls == ["joined", 1]
    assert "SyntaxError" in capsys.readouterr().err


@pytest.mark.parametrize(("process", "waits"), [(0, [cli.EXIT_SECONDS]), (1, [])])
def test_process_0_lets_the_others_stop_before_it_ends(tmp_path, monkeypatch, process, waits):
    def stop(*_, **__):
        raise Preempted("stopped by SIGTERM", alone=True)

    ends, slept = [], []
    monkeypatch.setattr(train_command, "train", stop)
    monkeypatch.setattr(distributed, "connect", lambda *_: None)
    monkeypatch.setattr(distributed, "process_index", lambda: process)
    monkeypatch.setattr(cli.os, "_exit", ends.append)
    monkeypatch.setattr(cli.time, "sleep", slept.append)
    experiment = ROOT / "experiments" / "solov2_light_r50_fpn_3x.py"
    main(["train", str(experiment), *PROCESSES, "--workdir", str(tmp_path)])
    assert ends == [75]
    assert slept == waits


def test_a_second_interrupt_waits_for_no_thread(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupt)
    monkeypatch.setattr(cli, "_stop_at_signals", lambda: None)
    monkeypatch.setattr(cli.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as stop:
        cli.program()
    assert stop.value.code == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_signal_before_or_after_a_command_has_the_status_of_one_that_is_stopped(number, moment):
    code = f"""
import os, signal, time
from jaxseg.commands import cli
def main():
    if {moment!r} == "start":
        os.kill(os.getpid(), {int(number)})
    return 75
cli.main, exit = main, os._exit
cli.sys.exit = lambda status: (os.kill(os.getpid(), {int(number)}), exit(status))
cli.program()
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert result.returncode == 75


def test_the_demo_trains_either_model(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(train_command, "train", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(eval_command, "evaluate", lambda workdir, out, notice: None)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--model", "solov2", "--out", str(tmp_path)]) == 0
    assert [
        (type(experiment.model).__name__, workdir.name) for experiment, workdir, _ in calls
    ] == [
        ("MaskRCNNConfig", "run-mask_rcnn"),
        ("SOLOv2Config", "run-solov2"),
    ]
