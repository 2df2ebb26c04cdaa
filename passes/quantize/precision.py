"""How many bits every weight and every value gets, and how many scales: one width for all of a kind, and exceptions by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcc.errors import RecipeError
from qcc.ir import Graph
from qcc.passes.quantize.forms import Form
from qcc.passes.quantize.placement import Placement

WIDE = 16         # bits of values that need more than a byte
WIDENING = frozenset({Form.LINEAR, Form.SUM, Form.SCALE, Form.MEAN, Form.CLIP, Form.MOVE, Form.MAXIMUM})    # take and give these
INPUT_BITS = 8    # of the network's inputs: pixels and samples have as many, and the kernels' inputs cost nothing more


@dataclass(frozen=True)
class Precision:
    """Widths in bits.

    Attributes:
        weight_bits, activation_bits: of all weights, and of all values between layers; the network's inputs have 8 at least,
            and 8 where values have 16. Only values between operators of certain forms (WIDENING) have 16 bits: a table of 2^16 results is
            too large and a product of two such values too long, so what functions and products read or compute has 8.
        weights: other widths by the name of a layer (the value that it computes).
        activations: other widths by the name of a value; values that share an encoding need one of them named.
        granularity: of weight scales: one per output "channel", or one per "tensor".
    """

    weight_bits: int = 8
    activation_bits: int = 8
    weights: Mapping[str, int] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)
    granularity: str = "channel"

    def of_weights(self, layer: str) -> int:
        return self.weights.get(layer, self.weight_bits)

    def of_values(self, group: Sequence[str], graph: Graph, placement: Placement) -> int:
        """The width of values that share one encoding.

        Raises:
            RecipeError: the widths named for them differ, or are 16 where no kernel takes or gives so many.
        """
        named = {name: self.activations[name] for name in group if name in self.activations}
        if len(set(named.values())) > 1:
            listed = ", ".join(f"%{name} = {bits}" for name, bits in named.items())
            raise RecipeError(f"activations {listed} share one encoding, as one is moved into the other; give them one width")
        default = self.activation_bits if not set(group) & set(graph.inputs) else max(self.activation_bits, INPUT_BITS)
        narrow = next((name for name in group if not widens(name, graph, placement)), None)
        if WIDE in named.values() and narrow is not None:
            raise RecipeError(
                f"activations %{next(iter(named))} = {WIDE}: %{narrow} of the same encoding is read or computed by an operator of "
                "bytes (a function, a product of two activations, a float operator); expected at most 8")
        if not named and default == WIDE and (narrow is not None or set(group) & set(graph.inputs)):
            return INPUT_BITS
        return next(iter(named.values()), default)

    def check(self, graph: Graph, placement: Placement) -> None:
        """Raises RecipeError for names that are no layer with weights or no quantized value of this network."""
        layers = [node.outputs[0] for node in graph.nodes if placement.forms.get(node.outputs[0]) is Form.LINEAR]
        for kind, named, known in (("weights", self.weights, layers), ("activations", self.activations, placement.encoded)):
            unknown = sorted(set(named) - set(known))
            if unknown:
                listed, there = ", ".join(unknown[:5]), ", ".join(list(known)[:5])
                raise RecipeError(f"recipe: [{kind}] names {listed}, which this network does not quantize; expected names such as {there}")


def widens(name: str, graph: Graph, placement: Placement) -> bool:
    """Whether everything that touches a value has a form for 16 bits."""
    touching = [node for node in graph.nodes if name in node.inputs or name in node.outputs]
    return all(placement.forms.get(node.outputs[0]) in WIDENING for node in touching)
