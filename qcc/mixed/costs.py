"""What each layer costs at each precision: constants' bytes, seconds, bytes of the arena, bit operations.

The costs are those of the kernels that the compiler would really plan: the network's integers are narrowed to each width, and planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcc.codegen.families import layer_of
from qcc.codegen.island import Island
from qcc.codegen.plan import plan
from qcc.codegen.profiling import Profile, constant_bytes, distinct
from qcc.codegen.program import Program, Step
from qcc.codegen.tables import groups_for
from qcc.codegen.target import Target
from qcc.ir import Graph, Node
from qcc.ir.types import DType
from qcc.ops import IntegerConvolution, IntegerMatMul

WEIGHT_BITS = (8, 4, 3, 2)
SUM = "@sum"       # what conversion appends to the name of a layer whose accumulator it is


@dataclass(frozen=True)
class Costs:
    """Of one network on one target.

    Attributes:
        size: bytes of constants by layer and bits of its weights.
        latency: seconds by layer and bits of its weights.
        fixed_size, fixed_latency: of everything else.
        arena: bytes.
        profile: where the seconds are from.
    """

    size: Mapping[str, Mapping[int, float]]
    latency: Mapping[str, Mapping[int, float]]
    fixed_size: float
    fixed_latency: float
    arena: int
    profile: Profile


def narrowed(graph: Graph, bits: int) -> Graph:
    """The INTEGER graph with the weights of its layers clipped to so many bits: what is planned from it has that width's kernels."""
    constants, types = dict(graph.constants), dict(graph.types)
    most = (1 << (bits - 1)) - 1
    for node in layers(graph).values():
        name = node.inputs[1]
        if graph.is_constant(name) and types[name].dtype.kind == "i" and types[name].dtype.bits > bits:
            clipped = np.clip(constants[name], -most, most)
            clipped.flags.writeable = False
            encoding = types[name].encoding
            narrow = None if encoding is None else replace(encoding, dtype=DType("i", bits))
            constants[name], types[name] = clipped, replace(types[name], dtype=DType("i", bits), encoding=narrow)
    return replace(graph, constants=constants, types=types)


def layers(graph: Graph) -> dict[str, Node]:
    """The nodes of an INTEGER graph that have weights, by the name that their layer has in the float network."""
    return {node.outputs[0].partition(SUM)[0]: node for node in graph.nodes if isinstance(node.op, IntegerConvolution | IntegerMatMul)}


@dataclass(frozen=True)
class Plans:
    """The network planned with all weights of one width, for each width."""

    graph: Graph
    target: Target
    programs: Mapping[int, Program]

    @staticmethod
    def of(graph: Graph, target: Target, islands: Mapping[str, Island], widths: Sequence[int] = WEIGHT_BITS) -> Plans:
        """Plan an INTEGER graph whose weights have 8 bits."""
        return Plans(graph, target, {bits: plan(narrowed(graph, bits), target, "costs", islands) for bits in widths})

    @property
    def constants(self) -> int:
        """Bytes of the widest plan's constants."""
        return len(self.programs[max(self.programs)].constants)

    @property
    def steps(self) -> dict[str, Step]:
        """Every distinct kernel's step, by subject."""
        return distinct(step for program in self.programs.values() for step in program.steps)

    def costs(self, profile: Profile) -> Costs:
        """What the plans cost by this profile."""
        labels = {entry.label: entry.node.outputs[0].partition(SUM)[0] for entry in groups_for(self.target, self.graph)
                  if isinstance(entry.node.op, IntegerConvolution | IntegerMatMul)}
        size: dict[str, dict[int, float]] = {layer: {} for layer in labels.values()}
        latency: dict[str, dict[int, float]] = {layer: {} for layer in labels.values()}
        rest_latency = 0.0
        for bits, program in self.programs.items():
            for step in program.steps:
                layer = labels.get(layer_of(step.node))
                if layer is not None:
                    size[layer][bits] = size[layer].get(bits, 0.0) + constant_bytes(step)
                    latency[layer][bits] = latency[layer].get(bits, 0.0) + profile.of(step.kernel)
                elif bits == max(self.programs):
                    rest_latency += profile.of(step.kernel)
        widest = self.programs[max(self.programs)]
        rest_size = self.constants - sum(own[max(self.programs)] for own in size.values())
        return Costs(size, latency, rest_size, rest_latency, widest.arena_bytes, profile)
