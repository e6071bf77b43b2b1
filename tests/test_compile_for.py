"""Compile programs for devices that are described and not here (`scripts/compile_for`)."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def compile_for(tmp_path, *arguments):
    """Run the script; return its output and its reports by program."""
    path = tmp_path / "reports.json"
    command = [sys.executable, "scripts/compile_for", *arguments, "--json", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stderr)
    return done.stdout, {report["what"]: report for report in json.loads(path.read_text())}


def test_an_operation_on_a_cpu(tmp_path):
    output, reports = compile_for(
        tmp_path, "cpu", "roi_align", "--batch", "1", "--size", "64", "64"
    )
    report = reports["roi_align"]
    assert report["device"] == "cpu"
    assert report["memory"]["results"] == 512 * 7 * 7 * 256 * 2
    assert report["kernels"]["gather"] >= 1
    assert report["loops"] == {"number": 0, "unknown_length": 0}
    assert "| gather | " in output
    assert "no estimate of time" in output
