"""Read a compiled program's HLO text: what runs, how often, from which line of the source.

Terms:
    kernel    an instruction that does work on the device: a fusion, a convolution, a copy, ...
    runs      how often a kernel runs in one call: the product of the lengths of the loops around it
    cycles    the compiler's estimate for one run. TPU programs have it for most fusions and copies,
              not for gathers, scatters and sorts; CPU and GPU programs have none
"""

import dataclasses
import re
from collections.abc import Iterator

ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0} | {
    f"{kind}{bits}": bits // 8 for kind in "suf" for bits in (8, 16, 32, 64)
}
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}
"""Opcodes that move and compute nothing."""
CONTROL = {"while", "conditional", "call"}
COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "reduce-scatter",
}
FUSED_KINDS = (
    "convolution",
    "dot",
    "scatter",
    "gather",
    "sort",
    "select-and-scatter",
    "reduce-window",
    "reduce",
)
"""A fusion is of the first of these kinds that it holds."""
MOVES = {"copy", "transpose", "reshape", "slice", "concatenate", "pad", "dynamic-slice"}


@dataclasses.dataclass(frozen=True)
class Frame:
    """A line of Python that was running when an instruction was traced."""

    file: str
    function: str
    caller: int
    """Number of the calling frame, 0 for none."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of HLO text."""

    name: str
    type: str
    opcode: str
    attributes: str
    """All that follows the opcode: operands, the computations that it calls, metadata."""

    @property
    def op_name(self) -> str:
        """Return JAX's name of the operation, which begins with the transforms and the modules."""
        return self.find(r'op_name="([^"]*)"') or ""

    @property
    def frame(self) -> int:
        """Return the number of the innermost frame, 0 for none."""
        return int(self.find(r"stack_frame_id=(\d+)") or 0)

    @property
    def cycles(self) -> int | None:
        """Return the estimate for one run."""
        found = self.find(r'"estimated_cycles":"(\d+)"')
        return None if found is None else int(found)

    @property
    def target(self) -> str:
        """Return the name of a custom call's function."""
        return self.find(r'custom_call_target="([^"]*)"') or ""

    @property
    def bytes_written(self) -> int:
        """Return the size of the results."""
        return type_bytes(self.type)

    def called(self) -> list[str]:
        """Return the computations that run as a part of this instruction."""
        if self.opcode == "while":
            return [self.find(r"body=%?([\w.\-]+)") or ""]
        branches = self.find(r"branch_computations=\{([^}]*)\}")
        if branches:
            return [name.strip().lstrip("%") for name in branches.split(",")]
        pairs = re.findall(r"(?:true_computation|false_computation)=%?([\w.\-]+)", self.attributes)
        single = self.find(r"(?:calls|to_apply)=%?([\w.\-]+)")
        return pairs or ([single] if single else [])

    def find(self, pattern: str) -> str | None:
        """Return the first group of the pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction that runs on the device."""

    instruction: Instruction
    kind: str
    runs: int
    in_unknown_loop: bool
    """It is in a loop whose length depends on the data, and is counted as if that ran once."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed HLO module."""

    computations: dict[str, list[Instruction]]
    entry: str
    frames: dict[int, Frame]

    def kernels(self) -> Iterator[Kernel]:
        """Yield everything that does work."""
        for instruction, runs, unknown in self._executed(self.entry, 1, False):
            if instruction.opcode in FREE | CONTROL or instruction.opcode.endswith("-done"):
                continue
            yield Kernel(instruction, self.kind(instruction), runs, unknown)

    def loops(self) -> list[Instruction]:
        """Return the loops that run on the device."""
        executed = self._executed(self.entry, 1, False)
        return [i for i, _, _ in executed if i.opcode == "while"]

    def trips(self, loop: Instruction) -> int | None:
        """Return a loop's length if the compiler knows it, or its condition is `counter < N`.

        The loops of `jax.lax.scan` and `map` count from 0 by 1; libtpu does not write their length.
        """
        known = loop.find(r'"known_trip_count":\{"n":"(\d+)"')
        condition = self.computations.get(loop.find(r"condition=%?([\w.\-]+)") or "", [])
        if known is None and condition and "direction=LT" in condition[-1].attributes:
            limit = re.search(r"\(%?[\w.\-]+, %?([\w.\-]+)\)", condition[-1].attributes)
            for instruction in condition:
                if limit and instruction.name == limit[1]:
                    known = instruction.find(r"^constant\((\d+)\)")
        return None if known is None else int(known)

    def kind(self, instruction: Instruction) -> str:
        """Return the kind of work: of a fusion that of its heaviest part."""
        opcode = instruction.opcode.removesuffix("-start")
        if opcode == "custom-call":
            return _custom_call_kind(instruction.target)
        if opcode == "async":
            return "copy"
        if opcode != "fusion":
            return opcode
        inside = self._opcodes(instruction)
        for kind in FUSED_KINDS:
            if kind in inside:
                return "convolution" if kind == "dot" else kind
        work = inside - FREE
        if work <= {"convert"} | MOVES and "convert" in work:
            return "cast"
        if work <= MOVES:
            return "copy"
        if work <= {"broadcast", "iota"} | MOVES:
            return "broadcast"
        return "elementwise"

    def traced(self, instruction: Instruction) -> Instruction:
        """Return the instruction, or if it lost JAX's name, the last inside it that has one.

        The TPU compiler makes fusions of scatters without names.
        """
        if instruction.op_name or instruction.opcode != "fusion":
            return instruction
        inside = [i for name in instruction.called() for i in self.computations.get(name, [])]
        named = [self.traced(i) for i in inside if self.traced(i).op_name]
        return named[-1] if named else instruction

    def callers(self, instruction: Instruction) -> list[Frame]:
        """Return the frames of an instruction, the innermost first."""
        frames, number = [], instruction.frame
        while number in self.frames:
            frames.append(self.frames[number])
            number = self.frames[number].caller
        return frames

    def _opcodes(self, fusion: Instruction) -> set[str]:
        found: set[str] = set()
        for name in fusion.called():
            for instruction in self.computations.get(name, []):
                found.add(instruction.opcode)
                if instruction.opcode == "fusion":
                    found |= self._opcodes(instruction)
        return found - {"fusion"}

    def _executed(
        self, computation: str, runs: int, unknown: bool
    ) -> Iterator[tuple[Instruction, int, bool]]:
        for instruction in self.computations.get(computation, []):
            yield instruction, runs, unknown
            if instruction.opcode not in CONTROL:
                continue
            trips = self.trips(instruction) if instruction.opcode == "while" else 1
            for name in instruction.called():
                yield from self._executed(name, runs * (trips or 1), unknown or trips is None)


def parse(text: str) -> Program:
    """Parse the text of `jax.stages.Compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if head and "->" in line:
                current = computations.setdefault(head[2], [])
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            type_, rest = _split_type(found[2])
            opcode = re.match(r"[\w\-]+", rest)
            current.append(Instruction(found[1], type_, opcode[0] if opcode else "", rest))
    return Program(computations, entry, _frames(text))


def type_bytes(type_: str) -> int:
    """Return the size of an HLO type, a tuple's with all of its parts, without padding.

    >>> type_bytes("(f32[8,2]{1,0:T(8,128)}, pred[])")
    65
    """
    total = 0
    for item, dimensions in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", type_):
        size = ITEM_BYTES.get(item, 0)
        for dimension in filter(None, dimensions.split(",")):
            size *= int(dimension)
        total += size
    return total


def _split_type(text: str) -> tuple[str, str]:
    """Split the type off an instruction's text; a tuple's holds spaces and parentheses."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            return text[:position], text[position + 1 :]
    return text, ""


def _frames(text: str) -> dict[int, Frame]:
    """Read the tables of frames before the first computation; empty if the text has none."""
    names = {kind: _table(text, kind, r'"(.*)"') for kind in ("FileNames", "FunctionNames")}
    pair = r"\{file_name_id=(\d+) function_name_id=(\d+)"
    locations = _table(text, "FileLocations", pair)
    rows = _table(text, "StackFrames", r"\{file_location_id=(\d+)(?: parent_frame_id=(\d+))?")
    # The first frame has no caller. jaxlib 0.10 writes 1 for that, and counts callers from there.
    first = rows.get(1, ("", ""))[1]
    offset = int(first or 0)
    frames = {}
    for number, (location, caller) in rows.items():
        file, function = locations.get(int(location), ("0", "0"))
        frames[number] = Frame(
            names["FileNames"].get(int(file), ("",))[0],
            names["FunctionNames"].get(int(function), ("",))[0],
            int(caller or offset) - offset,
        )
    return frames


def _table(text: str, title: str, pattern: str) -> dict[int, tuple[str, ...]]:
    found = re.search(rf"^{title}\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    rows = found[1].splitlines() if found else []
    matches = [re.match(rf"(\d+) {pattern}", row) for row in rows]
    return {int(m[1]): m.groups()[1:] for m in matches if m}


def _custom_call_kind(target: str) -> str:
    if "conv" in target:
        return "convolution"
    if any(word in target for word in ("gemm", "matmul", "dot")):
        return "convolution"
    if "TopK" in target:
        return "top-k"
    return f"custom call {target}"
