"""Count the cycles of TPU kernels from their machine code, for those that have no estimate.

A TPU starts one bundle of instructions a cycle. libtpu writes the bundles of each kernel to a
folder; their number, times the lengths of the loops around them, is a lower bound of the kernel's
time: waits for memory are not in it, and loops of a length that depends on the data count once.
"""

import pathlib
import re

FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=^final_bundles$"
)
"""For LIBTPU_INIT_ARGS, before libtpu is loaded."""

_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+((?:[A-Z]{2}:\s*)*)[:\s]*((?:>\s*)*)\{(.*)")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder [^;]*?, (\d+) /\* loop exit test")


def collect(folder: pathlib.Path) -> dict[str, int]:
    """Return the cycles of each kernel in the folder by its name, and empty the folder."""
    cycles = {}
    for path in folder.iterdir():
        name = re.match(r"\d+-(.*)-\d+-final_bundles\.txt$", path.name)
        if name and "schedule-analysis" not in path.name:
            cycles[name[1]] = count_cycles(path.read_text(errors="replace"))
        path.unlink()
    return cycles


def count_cycles(text: str) -> int:
    """Return the cycles of one kernel.

    The depth of a bundle in loops is the number of `>` before it; LB labels the first of a body.
    """
    depth = 0
    loops: list[list[int]] = [[0, 0, 1]]  # [depth, cycles, length] of the open loops

    def close() -> None:
        _, cycles, length = loops.pop()
        loops[-1][1] += cycles * length

    for line in text.splitlines():
        bundle = _BUNDLE.match(line)
        if bundle:
            labels, arrows, content = bundle.groups()
            is_body = "LB" in labels
            if not content.startswith("}"):  # the depth of an empty bundle is not written
                depth = arrows.count(">")
            while len(loops) > 1 and loops[-1][0] >= depth + (not is_body):
                close()
            if is_body:
                loops.append([depth, 0, 1])
            loops[-1][1] += 1
        exit_test = _EXIT.search(line)
        if exit_test and loops[-1][0] == depth:
            loops[-1][2] = int(exit_test[1])
    while len(loops) > 1:
        close()
    return loops[0][1]
