"""One site tried at each of its precisions: a job that needs nothing but itself, so that any executor can run it anywhere.

A job holds the rest of the network behind the site, as ONNX, and for every sample the values that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qcc.ir import Array, Encoding, Graph, Node
from qcc.mixed.losses import Loss, loss_between
from qcc.onnx import export_model
from qcc.onnx.exporter import extra_output
from qcc.onnx.runner import open_session
from qcc.passes.rounding.choose import DAMPINGS, LARGE
from qcc.passes.rounding.columns import weights_of
from qcc.passes.rounding.correct import describe
from qcc.passes.rounding.layer import Rounded, round_nearest
from qcc.passes.rounding.methods import round_second_order
from qcc.passes.rounding.rows import Rows
from qcc.passes.rounding.tandem import segment

ROWS = 16384      # positions of a layer's output that its rounding looks at
MOST_PRODUCTS = 2 * 10**9      # of a layer's weights with the moments of its inputs: a larger one is rounded to the nearest
MANY_BITS = 8     # rounding to the nearest is enough from here on

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Layer:
    """A layer whose weights are tried: they and the bias are inputs of the model.

    Attributes:
        source, weights, bias: names of the layer's inputs in the model.
        given: weights and bias in float32.
        encodings: of the weights, by label.
        tied: all outputs have one weight scale.
    """

    node: Node
    source: str
    weights: str
    bias: str
    given: tuple[Array, Array]
    encodings: Mapping[str, Encoding]
    tied: bool = False


@dataclass(frozen=True)
class Trial:
    """A site, the rest of the network, and its inputs.

    Attributes:
        outputs: values to compare.
        feeds: inputs of the model, per sample, but for the weights.
        exact: the model in float32.
        models: other models by label, which compute the site's candidates.
        layer: in their place, weights of candidates to round and to feed to `exact`.
        learn: so many of the first samples are for rounding only, and the loss is that of the others; 0: all are for both.
    """

    site: str
    outputs: tuple[str, ...]
    feeds: tuple[Feeds, ...]
    exact: bytes
    models: Mapping[str, bytes] = field(default_factory=dict)
    layer: Layer | None = None
    learn: int = 0


def run_trial(trial: Trial) -> dict[str, Loss]:
    """The loss by label."""
    if trial.layer is None:
        judged = trial.feeds[trial.learn :]
        wanted = _evaluate(open_session(trial.exact, 1), trial.outputs, judged)
        return {label: loss_between(wanted, _evaluate(open_session(model, 1), trial.outputs, judged))
                for label, model in trial.models.items()}
    layer, session = trial.layer, open_session(trial.exact, 1)
    given = dict(zip((layer.weights, layer.bias), layer.given, strict=True))
    name = layer.node.outputs[0]
    exact = _evaluate(session, (*trial.outputs, name), [{**feeds, **given} for feeds in trial.feeds])
    pairs = [(feeds[layer.source], result[name]) for feeds, result in zip(trial.feeds, exact, strict=True)][: trial.learn or None]
    wanted = [{n: result[n] for n in trial.outputs} for result in exact[trial.learn :]]
    losses = {}
    for label, (weights, bias) in rounded(layer, pairs).items():
        changed = {layer.weights: weights, layer.bias: bias}
        tried = [{**feeds, **changed} for feeds in trial.feeds[trial.learn :]]
        losses[label] = loss_between(wanted, _evaluate(session, trial.outputs, tried))
    return losses


def _evaluate(session: Any, outputs: Sequence[str], feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
    names = [extra_output(name) for name in outputs]
    return [dict(zip(outputs, session.run(names, dict(feed)), strict=True)) for feed in feeds]


def rounded(layer: Layer, pairs: Sequence[tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
    """Weights and bias by label, rounded by their effect on these pairs of inputs and results.

    The compile rounds more carefully, on inputs that the rounded layers before make; this is what can be known of one layer alone.
    """
    weights, given = layer.given
    with np.errstate(over="ignore", invalid="ignore"):
        seen, unseen = Rows(layer.node, weights.shape, [(x, y, None) for x, y in pairs], ROWS).moments()
        total = seen if unseen is None else seen + unseen
    problem = total.centred()
    found = {}
    for label, encoding in layer.encodings.items():
        described = describe(layer.node, weights, encoding, layer.tied)
        outputs, depth = described.weights.shape[1:]
        if described.bits >= MANY_BITS or not total.finite or outputs * depth * depth > MOST_PRODUCTS:
            result: Rounded = round_nearest(described)
        elif depth > LARGE:
            damped = problem.damped(described.weights, DAMPINGS[-1])
            result = round_second_order(described.compact(), damped.compact(), True, descents=0)
        else:
            result = round_second_order(described, problem.damped(described.weights, DAMPINGS[-1]), True, descents=0)
        bias = problem.bias(result.weights).reshape(-1) if total.finite else given
        found[label] = weights_of(layer.node, result.weights.astype(np.float32), weights.shape), bias.astype(np.float32)
    return found


def rest_of(graph: Graph, number: int) -> tuple[Graph, tuple[str, ...]]:
    """The nodes from this number on as a graph, and the network's outputs that they make."""
    nodes = graph.nodes[number:]
    made = {name for node in nodes for name in node.outputs}
    return segment(graph, nodes), tuple(name for name in dict.fromkeys(graph.output_values) if name in made)


def layer_trial(
    graph: Graph, number: int, site: str, samples: Sequence[Feeds], encodings: Mapping[str, Encoding], tied: bool = False
) -> Trial:
    """A trial of the weights of one layer; `samples` hold the values that are alive before it."""
    rest, outputs = rest_of(graph, number)
    node = graph.nodes[number]
    name = node.outputs[0]
    weights, bias = f"{name}@tried_weights", f"{name}@tried_bias"
    given = graph.constants[node.inputs[1]]
    axis = next(iter(encodings.values())).axis or 0
    known = len(node.inputs) > 2 and node.inputs[2]
    own = graph.constants[node.inputs[2]] if known else np.zeros(given.shape[axis], np.float32)
    of_bias = replace(graph.types[node.inputs[1]], shape=own.shape, encoding=None)
    types = {**rest.types, weights: replace(graph.types[node.inputs[1]], encoding=None), bias: of_bias}
    tried = replace(node, inputs=(node.inputs[0], weights, bias))
    others = {n for other in rest.nodes[1:] for n in other.inputs}
    constants = {n: array for n, array in rest.constants.items() if n in others or n in tried.inputs}
    model = replace(rest, inputs=(*rest.inputs, weights, bias), nodes=(tried, *rest.nodes[1:]), types=types, constants=constants)
    feeds = tuple({n: sample[n] for n in rest.inputs} for sample in samples)
    exact = export_model(model, dict.fromkeys((*outputs, name))).SerializeToString()
    return Trial(site, outputs, feeds, exact, layer=Layer(node, node.inputs[0], weights, bias, (given, own), encodings, tied))


def value_trial(
    graph: Graph, number: int, site: str, samples: Sequence[Feeds], encodings: Mapping[str, Mapping[str, Encoding]]
) -> Trial:
    """A trial of values that node `number` or later ones make; `encodings` by label and value."""
    rest, outputs = rest_of(graph, number)
    feeds = tuple({n: sample[n] for n in rest.inputs} for sample in samples)
    models = {}
    for label, values in encodings.items():
        types = {n: replace(t, encoding=values[n]) if n in values else t for n, t in rest.types.items()}
        models[label] = export_model(replace(rest, types=types), outputs).SerializeToString()
    return Trial(site, outputs, feeds, export_model(rest, outputs).SerializeToString(), models)
