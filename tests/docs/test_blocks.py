"""Every block of code in the documentation runs; what a test cannot run is parsed."""

import pathlib
import re
import shlex
import subprocess

import jax
import pytest

from jaxseg.commands import flags, parser
from jaxseg.commands.cli import main
from jaxseg.commands.experiments import experiment_files
from jaxseg.commands.override import override
from jaxseg.experiment import load_experiment
from tests.conftest import ROOT
from tests.docs.pages import LANGUAGES, PAGES, blocks, prepare_folder

SHORT_TRAINING = {"--train.steps": "2", "--train.batch-size": "2", "--train.eval-every": "0"}
"""Flags that a `jaxseg train` of a page gets, unless it has them."""
LIKE_OWN_DATA = "mask_rcnn_coco_small"
"""The experiment whose fields are parsed in place of an own experiment's, or of `own_data`'s."""
RUNNABLE = [
    page
    for page in PAGES
    if page != "README.md" and any(block.language in ("python", "bash") for block in blocks(page))
]
"""tests/commands/test_readme.py runs the README's blocks in the quick tests."""


def commands(text):
    """Yield the words of each command line of a block, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_fenced_and_of_a_known_language(page):
    text = (ROOT / page).read_text()
    assert {block.language for block in blocks(page)} <= {*LANGUAGES}
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M)
    assert not re.search(r"^(#.*|)\n {4,}[^\s*\-\d]", prose, re.M), "an indented block of code"


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_do_not_run_here_exist(page):
    for block in blocks(page):
        if block.language == "console":
            for words in commands(block.text):
                check_command(words)


def check_command(words):
    """Check the name and the flags of a command line of jaxseg, and that a script is there."""
    for word in words:
        if word.removeprefix("./").startswith("scripts/"):
            assert (ROOT / word).exists(), word
    if "jaxseg" not in words:
        return
    try:
        command, overrides = parser.parse(words[words.index("jaxseg") + 1 :])
        if isinstance(command, flags.Train):
            override(load_experiment(experiment_file(command.experiment)), overrides)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"not a valid command: {shlex.join(words)}")


def experiment_file(experiment):
    """Return the file whose fields a command may change: a stand-in for files of the reader's."""
    files = experiment_files()
    if experiment.stem in files and experiment.stem != "own_data":
        return files[experiment.stem]
    of_the_reader = experiment.suffix == ".py" or experiment.stem in ("EXPERIMENT", "own_data")
    assert of_the_reader, f"no experiment {experiment}"
    return files[LIKE_OWN_DATA]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_blocks_run(page, workdir, tmp_path, monkeypatch):
    some = [block for block in blocks(page) if block.language in ("python", "bash")]
    prepare_folder(tmp_path, workdir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as if a page's package were installed
    namespace = {"__name__": page}
    # The tests' strict promotion, which Optax does not support, is not that of users.
    with jax.numpy_dtype_promotion("standard"):
        for block in some:
            if block.file:
                pathlib.Path(block.file).parent.mkdir(parents=True, exist_ok=True)
                pathlib.Path(block.file).write_text(block.text)
            elif block.language == "python":
                exec(compile(block.text, page, "exec"), namespace)
            else:
                for words in commands(block.text):
                    run_command(words)


def run_command(words):
    if words[0] != "jaxseg":
        subprocess.run(["bash", "-ec", shlex.join(words)], check=True)
        return
    if words[1] == "train" and "--dry-run" not in words:
        for flag, value in SHORT_TRAINING.items():
            words = words if flag in words else [*words, flag, value]
    assert main(words[1:]) == 0, shlex.join(words)


def test_a_command_with_an_unknown_flag_is_found():
    check_command(["jaxseg", "train", "own_data", "--train.steps", "3"])
    for wrong in (["eval", "runs/a", "--steps", "3"], ["train", "own_data", "--train.step", "3"]):
        with pytest.raises(pytest.fail.Exception, match="not a valid command"):
            check_command(["jaxseg", *wrong])
    with pytest.raises(AssertionError, match="no experiment"):
        check_command(["jaxseg", "train", "mask_rcnn_r50_fpn_2x", "--workdir", "runs/a"])
    with pytest.raises(AssertionError):
        check_command(["./scripts/no_such_script"])
