"""Compile programs for devices that are described and not here (`scripts/compile_for`)."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from aot import hlo, report, schedules

from tests.conftest import ROOT

MIB = 2**20

HLO = """\
HloModule jit_step, is_scheduled=true

FileNames
1 "/home/a/loop.py"
2 "/home/a/jaxseg/ops/roi_align.py"
3 "/home/a/jaxseg/ops/boxes.py"

FunctionNames
1 "train"
2 "roi_align"
3 "box_area"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=1 end_column=9}
2 {file_name_id=2 function_name_id=2 line=5 end_line=5 column=1 end_column=9}
3 {file_name_id=3 function_name_id=3 line=7 end_line=7 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %gather.1 = f32[8]{0} gather(%p, %p), offset_dims={}, \
metadata={op_name="jit(step)/vmap()/gather" stack_frame_id=3}
}

%cond (c: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] compare(%c, %c), direction=LT
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(8,128)}) parameter(0)
  %conv = bf16[4,2]{1,0} convolution(%b, %b), metadata={op_name="jit(step)/transpose(jvp(M))/fpn/" \
stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %t = (s32[], f32[8]) tuple(%b, %b)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %while = (s32[], f32[8]) while(%x), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %all-reduce-start = f32[8]{0} all-reduce-start(%x), to_apply=%fused
  %all-reduce-done = f32[8]{0} all-reduce-done(%all-reduce-start)
  ROOT %gather_fusion = f32[8]{0} fusion(%x), kind=kCustom, calls=%fused
}
"""

BUNDLES = """\
LB: loop body

     0   :  { %s1 = smov 0 }
   0x1 LB: > { %s2 = sadd.s32 1, %s1
more of the same bundle */ }
   0x2   :  {}
   0x3 LB: >> { %s4 = sadd.s32 1, %s1 }
   0x4   : >> { %p8 = scmp.ge.s32.totalorder %s4, 5 /* loop exit test */ }
   0x5   : > { %p9 = scmp.ge.s32.totalorder %s2, 3 /* loop exit test */ }
   0x6   :  { %10 = sbr.rel (!%p9) target = $region1 }
"""


def test_the_report_of_a_program():
    found = report.analyse(hlo.parse(HLO), {"gather_fusion": 7}, "TPU v5 lite", top=1)
    assert found["kernels"] == {"convolution": 1, "all-reduce": 1, "gather": 1}
    assert found["loops"] == {"number": 1, "unknown_length": 0}
    assert found["collectives"] == {"all-reduce": {"number": 1, "bytes": 32}}
    assert found["unestimated"] == {"gather": {"number": 1, "runs": 1, "bytes": 32}}
    estimate = found["estimate"]
    assert estimate["cycles"] == 307
    assert estimate["cycles_from_schedules"] == 7
    assert estimate["by_kind"] == {"convolution": 300, "gather": 7}
    assert estimate["by_part"] == {"fpn": {"backward": 300}, "roi_align": {"forward": 7}}
    assert found["largest"][0]["type"] == "bf16[4,2]"


@pytest.mark.parametrize(
    ("condition", "length"),
    [
        ("%n = s32[]{:T(128)} constant(8)\n  ROOT %lt = pred[] compare(%i, %n), direction=LT", 8),
        ("%n = s32[] constant(8)\n  ROOT %lt = pred[] compare(%i, %other), direction=LT", None),
        ("%n = s32[] constant(8)\n  ROOT %and = pred[] and(%i, %n)", None),
    ],
)
def test_the_length_of_a_loop_that_counts(condition, length):
    text = HLO.replace(', backend_config={"known_trip_count":{"n":"3"}}', "")
    text = text.replace("ROOT %lt = pred[] compare(%c, %c), direction=LT", condition)
    program = hlo.parse(text)
    assert [program.trips(loop) for loop in program.loops()] == [length]


def test_cycles_of_machine_code():
    assert schedules.count_cycles(BUNDLES) == 1 + 3 * (2 + 5 * 2 + 1) + 1


def compile_for(tmp_path, *arguments):
    """Run the script; return its output and its reports by program."""
    path = tmp_path / "reports.json"
    command = [sys.executable, "scripts/compile_for", *arguments, "--json", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
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
    # The one loop has no iterations: it holds the result in memory (`ops/scheduling.py`).
    assert report["loops"] == {"number": 1, "unknown_length": 1}
    assert "| gather | " in output
    assert "no estimate of time" in output


TPU_LIMITS = {  # operation: (MiB of temporaries, loops), for one image of 832x1344
    "roi_align": (150, 1),
    "roi_align_gradient": (400, 1),
    "nms": (32, 1),
    "rpn_matching": (16, 0),
    "mask_targets": (64, 0),
    "paste": (64, 0),
}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install -e .[tpu]",
)
def test_operations_on_a_tpu(tmp_path):
    """No gather becomes a loop, and no temporary has an axis that fills 128 lanes with two."""
    _, reports = compile_for(tmp_path, "tpu:v5e:2x2", *TPU_LIMITS, "--batch", "1")
    for what, (limit, loops) in TPU_LIMITS.items():
        assert reports[what]["memory"]["temporaries"] <= limit * MIB, what
        assert reports[what]["loops"]["number"] <= loops, what
