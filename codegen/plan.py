"""From an INTEGER graph to a Program: groups, places, kernels, constants, arena."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qcc.codegen.families import Call, Scratch, Site, choose
from qcc.codegen.groups import Group
from qcc.codegen.island import Island
from qcc.codegen.kernel import View, unchanged
from qcc.codegen.memory import Lifetime, plan_arena
from qcc.codegen.moves import Mover, copy
from qcc.codegen.placing import MOVES, Place, Placer
from qcc.codegen.program import ALIGNMENT, Address, Port, Program, Space, Step
from qcc.codegen.tables import families_for, groups_for, mover_for
from qcc.codegen.target import Target
from qcc.ir import Array, Graph
from qcc.ops import IntegerBatchMatMul, IntegerConvolution, IntegerMatMul


@dataclass
class ConstantPool:
    """Packed constants in one block, each once, aligned."""

    data: bytearray = field(default_factory=bytearray)
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: Array) -> Address:
        content = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self.known:
            self.data.extend(bytes(-len(self.data) % ALIGNMENT))
            self.known[key] = len(self.data)
            self.data.extend(content)
        return Address(Space.CONSTANT, self.known[key])


def plan(
    graph: Graph, target: Target, name: str, islands: Mapping[str, Island] | None = None, tuned: Callable[[Any], Any] = unchanged,
    pool: ConstantPool | None = None,
) -> Program:
    """Choose kernels, lay out memory and constants.

    Args:
        name: C identifier of the library.
        islands: the float nodes, lowered (`floats.make_islands`).
        tuned: exchanges a planned kernel for one that computes the same faster.
        pool: where constants of other programs are already.
    """
    groups, families, mover = groups_for(target, graph), families_for(target), mover_for(target)
    family = {entry.outputs[0]: choose(families, graph, entry) for entry in groups}
    places = dict(Placer(graph, groups, lambda entry: family[entry.outputs[0]].capabilities).run())
    calls = _stage_inputs(graph, groups, places, mover)
    for entry in groups:
        calls += family[entry.outputs[0]].plan(Site(graph, places, target, entry, islands or {}, tuned))
    ports, copies = _output_ports(graph, groups, places, mover)
    calls += copies
    roots = _root_addresses(graph, ports)
    lifetimes = _lifetimes(calls, roots)
    arena = plan_arena(list(lifetimes.values()))
    offsets = dict(zip(lifetimes, arena.offsets, strict=True))
    pool = ConstantPool() if pool is None else pool
    steps = tuple(_step(number, call, pool, roots, offsets) for number, call in enumerate(calls))
    inputs = tuple(Port(n, graph.types[n]) for n in graph.inputs)
    outputs = tuple(Port(port, graph.types[value]) for port, value in graph.outputs.items())
    pool.data.extend(bytes(-len(pool.data) % ALIGNMENT))
    return Program(name, inputs, outputs, steps, bytes(pool.data), arena.bytes, arena.lower_bound)


def _stage_inputs(graph: Graph, groups: Sequence[Group], places: dict[str, Place], mover: Mover) -> list[Call]:
    """Copies of integer inputs into the arena: linear kernels read a few bytes beyond a source, and the caller's memory may end there."""
    readers = [entry.node for entry in groups if isinstance(entry.node.op, IntegerBatchMatMul | IntegerConvolution | IntegerMatMul)]
    read = {name for node in readers for name in node.inputs[:1]}
    staged = {places[name].root for name in read if name in places} & set(graph.inputs)
    calls = []
    for name, place in list(places.items()):
        if place.root in staged:
            places[name] = replace(place, root=f"{place.root}@staged")
    for name in sorted(staged):
        calls.append(copy(mover, f"{name}@staged", Place(name, 0, places[name].view), places[name]))
    return calls


def _output_ports(
    graph: Graph, groups: Sequence[Group], places: Mapping[str, Place], mover: Mover
) -> tuple[dict[str, int], list[Call]]:
    """Which root is which output port. Outputs that later kernels read (see `_stage_inputs`), or that are not the whole of a
    buffer of their own, are copied at the end."""
    ports: dict[str, int] = {}
    copies = []
    read = {places[name].root for entry in groups if not isinstance(entry.node.op, MOVES) for name in entry.inputs(graph)}
    for number, (port, value) in enumerate(graph.outputs.items()):
        destination = Place(_port(number), 0, View.contiguous(graph.types[value].dtype, graph.types[value].shape))
        if value in graph.constants:
            copies.append(copy(mover, f"output {port}", graph.constants[value], destination))
            continue
        place = places[value]
        owner = places.get(place.root)      # an input's copy has none
        whole = owner is not None and place.offset == 0 and place.view.is_contiguous and place.view.span == owner.view.span
        if whole and place.root not in ports and place.root not in graph.inputs and place.root not in read:
            ports[place.root] = number
        else:
            copies.append(copy(mover, f"output {port}", place, destination))
    return ports, copies


def _port(number: int) -> str:
    """The root that stands for an output of the network."""
    return f"output {number}"


def _root_addresses(graph: Graph, ports: Mapping[str, int]) -> dict[str, Address]:
    """Roots that lie in the caller's memory; the others get a place in the arena."""
    addresses = {name: Address(Space.INPUT, number) for number, name in enumerate(graph.inputs)}
    addresses.update({root: Address(Space.OUTPUT, number) for root, number in ports.items()})
    addresses.update({_port(number): Address(Space.OUTPUT, number) for number in range(len(graph.outputs))})
    return addresses


def _lifetimes(calls: Sequence[Call], roots: Mapping[str, Address]) -> dict[str, Lifetime]:
    """Per root in the arena, and per scratch memory: its size and the first and last call that touches it."""
    lifetimes: dict[str, Lifetime] = {}
    for number, call in enumerate(calls):
        for position, argument in enumerate(call.arguments):
            if isinstance(argument, Scratch):
                lifetimes[_scratch(number, position)] = Lifetime(argument.bytes, number, number)
            elif isinstance(argument, Place) and argument.root not in roots:
                reach = argument.view.bytes_of(argument.offset) + argument.view.reach
                known = lifetimes.get(argument.root, Lifetime(reach, number, number))
                lifetimes[argument.root] = Lifetime(max(known.bytes, reach), known.first, number)
    return lifetimes


def _scratch(call: int, position: int) -> str:
    return f"scratch {call} {position}"


def _step(number: int, call: Call, pool: ConstantPool, roots: Mapping[str, Address], offsets: Mapping[str, int]) -> Step:
    def address(position: int, argument: Place | Array | Scratch) -> Address:
        if isinstance(argument, Scratch):
            return Address(Space.ARENA, offsets[_scratch(number, position)])
        if not isinstance(argument, Place):
            return pool.add(argument)
        shift = argument.view.bytes_of(argument.offset)
        if argument.root in roots:
            root = roots[argument.root]
            return Address(root.space, root.position, shift)
        return Address(Space.ARENA, offsets[argument.root] + shift)

    return Step(call.label, call.kernel, tuple(address(position, argument) for position, argument in enumerate(call.arguments)),
                sum(isinstance(argument, Scratch) for argument in call.arguments))
