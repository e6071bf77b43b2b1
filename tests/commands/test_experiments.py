"""Experiments by name, and the commands that describe an installation."""

import os
import shutil
import subprocess
import sys

import pytest

import jaxseg
from jaxseg.commands import env, experiments, parser
from jaxseg.commands import train as train_command
from jaxseg.commands.cli import main
from jaxseg.commands.experiments import experiment_files, find_experiment
from jaxseg.experiment import load_experiment
from tests.commands.tiny_run import EXPERIMENT_FILE
from tests.conftest import ROOT


def test_experiments_are_listed_with_the_first_line_of_their_docstrings(capsys):
    assert main(["experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        path.stem for path in sorted((ROOT / "experiments").glob("*.py"))
    ]
    (line,) = [line for line in lines if line.startswith("mask_rcnn_r50_fpn_1x ")]
    assert line.endswith('Mask R-CNN R50-FPN on COCO, 12 epochs ("1x"), as MMDetection trains it.')


def test_an_experiment_is_found_by_name_unless_there_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "solov2_r50_fpn_1x"
    for path in (name, f"{name}.py"):
        assert find_experiment(tmp_path.__class__(path)) == ROOT / "experiments" / f"{name}.py"
    own = tmp_path / f"{name}.py"
    own.write_text(EXPERIMENT_FILE)
    assert find_experiment(own.relative_to(tmp_path)).resolve() == own


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mask_rcnn_r50_fpn_1", "did you mean mask_rcnn_r50_fpn_1x or "),
        ("experiments/solov2_r50_fpn_1x.py", "did you mean solov2_r50_fpn_1x or "),
        ("something_else", "that name: `jaxseg experiments` lists them"),
    ],
)
def test_an_unknown_name_is_answered_with_similar_ones(name, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--workdir", "x"]) == 1
    error = capsys.readouterr().err
    assert f"no experiment file {name}" in error
    assert hint in error
    assert not list(tmp_path.iterdir())


def test_experiments_inside_the_package_are_found_as_a_wheel_has_them(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "jaxseg"
    shutil.copytree(ROOT / "experiments", package / "experiments")
    monkeypatch.setattr(jaxseg, "__file__", str(package / "__init__.py"))
    files = experiment_files()
    assert files["mask_rcnn_r101_fpn_3x"].parent == package / "experiments"
    assert load_experiment(files["mask_rcnn_r101_fpn_3x"]).model.backbone.depth == 101
    shutil.rmtree(package / "experiments")
    with pytest.raises(FileNotFoundError, match="this installation has no experiments"):
        experiment_files()


def test_a_run_starts_from_a_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(train_command, "train", lambda *arguments, fork: calls.append(arguments))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "solov2_nuclei", "--workdir", "run", "--train.steps", "7"]) == 0
    assert calls[0][0].train.steps == 7


def test_help_of_an_experiment_begins_with_its_docstring(capsys):
    with pytest.raises(SystemExit):
        main(["train", "solov2_nuclei", "--help"])
    printed = capsys.readouterr().out
    assert "SOLOv2 on fluorescence micrographs of cell nuclei, from random weights." in printed
    assert "jaxseg train --help shows the flags of the run" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nexperiment = (", r"line 2: SyntaxError: '\(' was never closed"),
        ("x = 1\n\nexperiment = y", "line 3: NameError: name 'y' is not defined"),
        ("import absent_module", "line 1: ModuleNotFoundError: No module named 'absent_module'"),
    ],
)
def test_an_error_in_an_experiment_file_is_reported_with_its_line(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"broken.py, {message}"):
        load_experiment(path)


def test_the_environment_names_versions_devices_and_variables(monkeypatch, capsys):
    monkeypatch.setenv("JAX_OWN", "1")
    monkeypatch.setenv("SECRET", "hidden")
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    for name in ("jaxseg:", "Python:", "orbax-checkpoint:", "CPUs:", "memory:", "device 0:"):
        assert f"\n{name}" in f"\n{printed}"
    assert f"{jaxseg.__version__} in " in printed
    assert os.environ["XLA_FLAGS"] in printed
    assert "JAX_OWN:" in printed
    assert "hidden" not in printed
    assert "not installed" not in printed


def test_a_device_that_cannot_be_used_is_reported(monkeypatch):
    def fail():
        raise RuntimeError("no driver\nmore")

    monkeypatch.setattr(env.jax, "devices", fail)
    assert list(env.environment())[-1] == "devices:                none: no driver"


@pytest.mark.parametrize("argument", ["--version", "--help", "experiments"])
def test_what_needs_no_jax_does_not_import_it(argument):
    code = (
        "import sys; from jaxseg.commands.cli import main\n"
        f"try: main([{argument!r}])\n"
        "except SystemExit: pass\n"
        "sys.exit('jax' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxseg {jaxseg.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_fall_back_to_files(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "experiments" in script
    for old, new in parser._CHANGES[shell]:
        assert new in script
        assert old not in script.replace(new, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_flags(tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(parser.completion_script("bash"))
    code = (
        f"source {script}; COMP_WORDS=(jaxseg data check --b); COMP_CWORD=3; _tyro_jaxseg; "
        'echo "${COMPREPLY[@]}"'
    )
    folder = os.path.dirname(sys.executable)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert result.stdout == "--bucket\n", result.stderr


def test_every_file_of_the_folder_is_an_experiment():
    assert set(experiments.experiment_files()) == {
        path.stem for path in (ROOT / "experiments").iterdir() if path.suffix == ".py"
    }
