"""Plans of random networks, run on symbols: every byte that a kernel reads is the one that the graph says it reads.

An element that some operator computes gets a number of its own; moving operators carry numbers along. Kernels are not run: a step
must find the numbers of its node's inputs where its operands point, and leaves those of its outputs. What overwrites memory that is still
needed, or moves bytes to the wrong place, is found by the next reader.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest

from qcc.codegen.cpu.move import CopyKernel, FillHaloKernel
from qcc.codegen.floats import is_island, island_inputs
from qcc.codegen.groups import Group
from qcc.codegen.island import Island
from qcc.codegen.kernel import View
from qcc.codegen.placing import MOVES
from qcc.codegen.plan import plan
from qcc.codegen.program import Address, Program, Space, Step
from qcc.codegen.target import TARGETS
from qcc.ir import Array, Graph, Node, verify
from qcc.ir.types import U8
from qcc.ops import Pad
from qcc.passes.integer import to_integer
from qcc.passes.quantize import Precision, encode, place
from tests.unit.graphs import measured, random_feeds, random_graph

EMPTY = -1
TARGET = next(iter(TARGETS.values()))


@dataclass(frozen=True)
class IslandKernel:
    """Stands for a float operator's kernel."""

    operands: tuple[View, ...]
    workspace_bytes: int = 192
    tasks: int = 1
    macs: int = 0


@dataclass(frozen=True)
class SymbolicIsland:
    kernel: IslandKernel
    constants: tuple[Array, ...] = ()


def islands(graph: Graph) -> dict[str, Island]:
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if is_island(graph, Group(node)):
            types = [graph.types[name] for name in (*island_inputs(graph, node), *node.outputs)]
            scratch = View.contiguous(U8, (IslandKernel(()).workspace_bytes,))
            found[node.outputs[0]] = SymbolicIsland(IslandKernel((*(View.contiguous(t.dtype, t.shape) for t in types), scratch)))
    return cast(dict[str, Island], found)


def numbers(graph: Graph) -> dict[str, Array]:
    """A number for each element of each value, the same for elements that only moved."""
    result: dict[str, Array] = {}
    count = 0

    def fresh(name: str) -> None:
        nonlocal count
        size = graph.types[name].size
        result[name] = np.arange(count, count + size, dtype=np.int64).reshape(graph.types[name].shape)
        count += size

    for name in (*graph.inputs, *graph.constants):
        fresh(name)
    for node in graph.nodes:
        if isinstance(node.op, MOVES):
            (result[node.outputs[0]],) = symbolic(node).op.evaluate(*(result[name] for name in node.inputs))
        else:
            for name in node.outputs:
                fresh(name)
    return result


def symbolic(node: Node) -> Node:
    """Padding pads with a number of its own."""
    return Node(Pad(node.op.before, node.op.after, -2), node.inputs, node.outputs) if isinstance(node.op, Pad) else node


@dataclass
class Machine:
    """Memory that holds, for each byte, the number of its element and the byte's place in it."""

    graph: Graph
    program: Program
    memory: dict[tuple[Space, int], Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = numbers(self.graph)
        for space, ports in ((Space.INPUT, self.program.inputs), (Space.OUTPUT, self.program.outputs)):
            for number, port in enumerate(ports):
                self.memory[space, number] = np.full(port.type.bytes, EMPTY, np.int64)
        self.memory[Space.ARENA, 0] = np.full(self.program.arena_bytes, EMPTY, np.int64)
        for number, port in enumerate(self.program.inputs):
            self.write(Address(Space.INPUT, number), View.contiguous(port.type.dtype, port.type.shape), self.numbers[port.name])

    def places(self, address: Address, view: View) -> tuple[Array, Array]:
        """The memory that an operand lies in, and the position of each byte of each element."""
        key = (address.space, 0 if address.space is Space.ARENA else address.position)
        start = address.offset + (address.position if address.space is Space.ARENA else 0)
        elements = np.zeros(view.shape, np.int64)
        for axis, (extent, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
            elements += (np.arange(extent) * stride).reshape([-1 if i == axis else 1 for i in range(len(view.shape))])
        positions = start + (elements[..., None] * view.dtype.bytes + np.arange(view.dtype.bytes))
        memory = self.memory[key]
        assert positions.size == 0 or (positions.min() >= 0 and positions.max() < memory.size), f"{address} lies outside its memory"
        return memory, positions

    def write(self, address: Address, view: View, values: Array) -> None:
        memory, positions = self.places(address, view)
        assert np.unique(positions).size == positions.size, "a destination meets itself"
        memory[positions] = values.reshape(view.shape)[..., None] * 16 + np.arange(view.dtype.bytes)

    def read(self, address: Address, view: View) -> Array:
        """The elements' numbers; EMPTY for one whose bytes do not belong together."""
        memory, positions = self.places(address, view)
        tokens = memory[positions]
        whole = np.all(tokens == tokens[..., :1] + np.arange(view.dtype.bytes), axis=-1) & (tokens[..., 0] % 16 == 0)
        return np.where(whole, tokens[..., 0] // 16, EMPTY)

    def run(self) -> None:
        for step in self.program.steps:
            if isinstance(step.kernel, CopyKernel):
                self.copy(step)
            elif isinstance(step.kernel, FillHaloKernel):
                self.fill(step, step.kernel)
            else:
                self.compute(step)
        for number, (port, value) in enumerate(self.graph.outputs.items()):
            view = View.contiguous(self.graph.types[value].dtype, self.graph.types[value].shape)
            got = self.read(Address(Space.OUTPUT, number), view)
            np.testing.assert_array_equal(got, self.numbers[value], f"output {port} is not %{value}")

    def copy(self, step: Step) -> None:
        source, destination = step.arguments
        before, after = step.kernel.operands
        if source.space is Space.CONSTANT:
            self.write(destination, after, self.constant(source, before))
            return
        values = self.read(source, before)
        assert not np.any(values == EMPTY), f"{step.node}: a copy reads what nobody wrote"
        self.write(destination, after, values)

    def constant(self, address: Address, view: View) -> Array:
        """The numbers of the graph's constant whose bytes lie at this address."""
        for name, array in self.graph.constants.items():
            content = self.program.constants[address.position:address.position + array.nbytes]
            if array.nbytes == int(np.prod(view.shape)) * view.dtype.bytes and content == array.tobytes():
                return self.numbers[name]
        raise AssertionError("no constant of the graph lies at the address that is copied")

    def fill(self, step: Step, kernel: FillHaloKernel) -> None:
        values = self.read(step.arguments[-1], kernel.destination)
        inside = tuple(slice(b, n - a) for b, a, n in zip(kernel.before, kernel.after, kernel.destination.shape, strict=True))
        padded = np.full(values.shape, -2, np.int64)
        padded[inside] = values[inside]
        self.write(step.arguments[-1], kernel.destination, padded)

    def compute(self, step: Step) -> None:
        """Check the sources of a step against its node's inputs, then write its node's outputs."""
        node = self.graph.producers[step.node]
        operands = [pair for pair in zip(step.arguments, step.kernel.operands, strict=True) if pair[0].space is not Space.CONSTANT]
        if isinstance(step.kernel, IslandKernel):
            operands, scratch = operands[:-1], operands[-1]
            self.write(*scratch, np.full(scratch[1].shape, -3, np.int64))
        count = len(node.outputs)
        sources, destinations = operands[:-count], operands[-count:]
        missing = Counter(self.sources(node))
        for address, view in sources:
            values = self.read(address, view)
            found = [name for name in self.candidates(node) if same(values, self.numbers[name])]
            assert found, f"{step.node}: reads {values.reshape(-1)[:8]}..., which is no input of {node}"
            for name in found:
                missing.pop(name, None)
        assert not missing, f"{step.node}: does not read {missing}"
        read = {(id(memory), int(p)) for memory, places in (self.places(*s) for s in sources) for p in places.flat}
        for (address, view), name in zip(destinations, node.outputs, strict=True):
            memory, places = self.places(address, view)
            assert not any((id(memory), int(p)) in read for p in places.flat), f"{step.node}: writes over what it reads"
            self.write(address, view, self.numbers[name])

    def sources(self, node: Node) -> list[str]:
        """What the step must read: values by name that are not constant, without the accumulator inside its group."""
        return [name for name in self.candidates(node) if name not in self.graph.constants]

    def candidates(self, node: Node) -> list[str]:
        names: list[str] = []
        for name in dict.fromkeys(n for n in node.inputs if n):
            anchor = self.graph.producers.get(name)
            inner = anchor is not None and not any(step.node == name for step in self.program.steps) and not isinstance(anchor.op, MOVES)
            names += [n for n in anchor.inputs if n not in self.graph.constants] if inner and anchor else [name]
        return list(dict.fromkeys(names))


def same(got: Array, wanted: Array) -> bool:
    """Whether an operand is this value: element by element, whatever axes of extent 1 or merged rows the kernel sees."""
    if got.size == wanted.size:
        return np.array_equal(got.reshape(-1), wanted.reshape(-1))
    try:
        return np.array_equal(got, np.broadcast_to(wanted, got.shape))
    except ValueError:
        return False


def integer_graph(seed: int, integer_io: bool) -> Graph:
    graph = random_graph(seed)
    placement = place(graph, integer_io)
    ranges = measured(graph, placement.encoded, list(random_feeds(graph, seed, 1)))
    return to_integer(encode(graph, placement, ranges, Precision()), placement, integer_io)


def check(graph: Graph) -> Program:
    verify(graph)
    program = plan(graph, TARGET, "test", islands(graph))
    Machine(graph, program).run()
    assert program.arena_bytes >= program.arena_lower_bound
    return program


@pytest.mark.parametrize("start", range(0, 160, 20))
def test_steps_find_what_they_read(start: int) -> None:
    for seed in range(start, start + 20):
        for integer_io in (False, True):
            check(integer_graph(seed, integer_io))


def test_the_machine_notices_what_is_missing_or_overwritten() -> None:
    graph = integer_graph(7, False)
    program = check(graph)
    assert len(program.steps) > 2

    def at_zero(address: Address) -> Address:
        return Address(Space.ARENA, 0) if address.space is Space.ARENA else address

    crowded = tuple(replace(step, arguments=tuple(at_zero(a) for a in step.arguments)) for step in program.steps)
    for steps in (program.steps[1:], program.steps[:-1], crowded):
        with pytest.raises(AssertionError):
            Machine(graph, replace(program, steps=steps)).run()
