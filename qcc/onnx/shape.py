"""Imports the operators that move elements: reshapes, transposes, slices, splits, pads, concatenations, gathers."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np

from qcc.onnx.conversion import Call, Conversion, Unsupported, converts
from qcc.ops import Concat, Gather, Pad, Reshape, Slice, Transpose


def reshape_to(c: Conversion, value: str, shape: tuple[int, ...]) -> str:
    """The value under this shape; no operator if it has it already."""
    return value if c.shape(value) == shape else c.emit(Reshape(shape), value)


def axes_of(c: Conversion, call: Call, index: int = 1) -> tuple[int, ...] | None:
    """Axes from the attribute (older opsets) or from a constant input; None if absent or not constant."""
    if call.has(index):
        return c.integers(call.inputs[index])
    found: tuple[int, ...] | None = call.get("axes")
    return found


@converts("Identity")
def identity(c: Conversion, call: Call) -> str:
    return call.inputs[0]


@converts("Dropout")
def dropout(c: Conversion, call: Call) -> tuple[str, ...]:
    training = c.constant(call.inputs[2]) if call.has(2) else None
    if call.has(2) and (training is None or bool(training)):
        raise Unsupported("dropout in training mode; export the model for inference (model.eval())")
    mask = np.dtype(np.bool_) if call.opset >= 10 else c.type(call.inputs[0]).dtype.numpy
    kept = (c.add_constant(np.broadcast_to(np.ones((), mask), c.shape(call.inputs[0]))),) if c.wants(call, 1) else ()
    return (call.inputs[0], *kept)


@converts("Cast", "CastLike")
def cast(c: Conversion, call: Call) -> str | None:
    """Only a cast that changes nothing; those of constants are folded, others stay as they are."""
    from qcc.onnx.inputs import element_type

    x = call.inputs[0]
    wanted = c.type(call.inputs[1]).dtype if call.type == "CastLike" else element_type(call.get("to", 0))
    return x if wanted == c.type(x).dtype else None


@converts("Reshape")
def reshape(c: Conversion, call: Call) -> str | None:
    wanted = c.integers(call.inputs[1])
    if wanted is None:
        return None
    old = c.shape(call.inputs[0])
    keep_zero = bool(call.get("allowzero", 0))
    shape = [old[i] if n == 0 and not keep_zero and i < len(old) else n for i, n in enumerate(wanted)]
    known = prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and prod(old) % known == 0:
        shape[shape.index(-1)] = prod(old) // known
    if prod(shape) != prod(old) or min(shape, default=0) < 0:
        raise Unsupported(f"cannot bring a tensor of shape {list(old)} to shape {list(wanted)}; "
                          "if the model was exported with fixed sizes, give the shape that it was exported with")
    return reshape_to(c, call.inputs[0], tuple(shape))


@converts("Flatten")
def flatten(c: Conversion, call: Call) -> str:
    shape = c.shape(call.inputs[0])
    axis = call.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return reshape_to(c, call.inputs[0], (prod(shape[:axis]), prod(shape[axis:])))


@converts("Squeeze")
def squeeze(c: Conversion, call: Call) -> str | None:
    shape, axes = c.shape(call.inputs[0]), axes_of(c, call)
    if axes is None and call.has(1):
        return None
    dropped = {a % len(shape) for a in axes} if axes is not None else {i for i, n in enumerate(shape) if n == 1}
    if any(shape[a] != 1 for a in dropped):
        raise Unsupported(f"squeezes axes {sorted(dropped)} of shape {list(shape)}, which are not all 1")
    return reshape_to(c, call.inputs[0], tuple(n for i, n in enumerate(shape) if i not in dropped))


@converts("Unsqueeze")
def unsqueeze(c: Conversion, call: Call) -> str | None:
    axes = axes_of(c, call)
    if axes is None:
        return None
    shape = list(c.shape(call.inputs[0]))
    rank = len(shape) + len(axes)
    for axis in sorted(a % rank for a in axes):
        shape.insert(axis, 1)
    return reshape_to(c, call.inputs[0], tuple(shape))


@converts("Expand")
def expand(c: Conversion, call: Call) -> str | None:
    """Of a constant, or where nothing is repeated; else it stays as it is."""
    wanted = c.integers(call.inputs[1])
    if wanted is None:
        return None
    shape = np.broadcast_shapes(c.shape(call.inputs[0]), wanted)
    array = c.constant(call.inputs[0])
    if array is not None:
        return c.add_constant(np.broadcast_to(array, shape))
    return reshape_to(c, call.inputs[0], shape) if prod(shape) == c.type(call.inputs[0]).size else None


@converts("Transpose")
def transpose(c: Conversion, call: Call) -> str:
    rank = len(c.shape(call.inputs[0]))
    permutation = call.get("perm", tuple(reversed(range(rank))))
    return call.inputs[0] if permutation == tuple(range(rank)) else c.emit(Transpose(permutation), call.inputs[0])


@converts("Concat")
def concat(c: Conversion, call: Call) -> str:
    rank = len(c.shape(call.inputs[0]))
    return call.inputs[0] if len(call.inputs) == 1 else c.emit(Concat(call.get("axis", 1) % rank), *call.inputs)


@converts("Slice")
def slices(c: Conversion, call: Call) -> str | None:
    """Ranges are attributes up to opset 9, inputs from 10 on."""
    x = call.inputs[0]
    shape = c.shape(x)
    if call.has(1):
        given = [c.integers(call.inputs[i]) if call.has(i) else () for i in (1, 2, 3, 4)]
        starts, ends, axes, steps = given
    else:
        starts, ends, axes, steps = call.get("starts"), call.get("ends"), call.get("axes", ()), ()
    if starts is None or ends is None or axes is None or steps is None:
        return None
    axes, steps = axes or tuple(range(len(starts))), steps or (1,) * len(starts)
    ranges = {a % len(shape): slice(b, e, s) for a, b, e, s in zip(axes, starts, ends, steps, strict=True)}
    # slice.indices() gives -1 for "down to the first element", which NumPy would read as the last one
    bounds = [ranges.get(i, slice(None)).indices(n) for i, n in enumerate(shape)]
    array = c.constant(x)
    if any(step < 0 for _, _, step in bounds):
        return None if array is None else c.add_constant(np.ascontiguousarray(array[tuple(
            slice(b, None if e < 0 else e, s) for b, e, s in bounds)]))
    return slice_to(c, x, tuple(b for b, _, _ in bounds), tuple(max(b, e) for b, e, _ in bounds), tuple(s for _, _, s in bounds))


def slice_to(c: Conversion, x: str, starts: tuple[int, ...], stops: tuple[int, ...], steps: tuple[int, ...] | None = None) -> str:
    """The slice; no operator if it is everything."""
    steps = steps or (1,) * len(starts)
    whole = all(b == 0 and e == n and s == 1 for b, e, s, n in zip(starts, stops, steps, c.shape(x), strict=True))
    return x if whole else c.emit(Slice(starts, stops, steps), x)


@converts("Split")
def split(c: Conversion, call: Call) -> tuple[str, ...] | None:
    """Sizes are an attribute up to opset 12, an input from 13 on; `num_outputs` from 18 on."""
    x = call.inputs[0]
    shape = c.shape(x)
    axis = call.get("axis", 0) % len(shape)
    sizes = c.integers(call.inputs[1]) if call.has(1) else call.get("split")
    if call.has(1) and sizes is None:
        return None
    if sizes is None:
        count = call.get("num_outputs", len(call.node.output))
        each = -(-shape[axis] // count)
        sizes = tuple(min(each, shape[axis] - i * each) for i in range(count))
    ends = np.cumsum((0, *sizes)).tolist()
    return tuple(slice_to(c, x, tuple(b if i == axis else 0 for i in range(len(shape))),
                          tuple(e if i == axis else n for i, n in enumerate(shape))) for b, e in pairwise(ends))


@converts("Pad")
def pad(c: Conversion, call: Call) -> str | None:
    """Amounts and value are attributes up to opset 10, inputs from 11 on; negative amounts cut off."""
    x = call.inputs[0]
    rank = len(c.shape(x))
    amounts = c.integers(call.inputs[1]) if call.has(1) else call.get("pads")
    value = c.constant(call.inputs[2]) if call.has(2) else np.array(call.get("value", 0.0))
    axes = axes_of(c, call, 3) if call.has(3) else tuple(range(rank))
    if amounts is None or value is None or axes is None:
        return None
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = amounts[place], amounts[place + len(axes)]
    if call.get("mode", "constant") != "constant" and any((*before, *after)):
        return None
    if min((*before, *after), default=0) < 0:
        x = slice_to(c, x, tuple(max(0, -b) for b in before), tuple(n - max(0, -a) for n, a in zip(c.shape(x), after, strict=True)))
    before, after = [max(0, b) for b in before], [max(0, a) for a in after]
    number = value.reshape(()).astype(c.type(x).dtype.numpy).item()
    return c.emit(Pad(tuple(before), tuple(after), number), x) if any((*before, *after)) else x


@converts("Gather")
def gather(c: Conversion, call: Call) -> str | None:
    x, indices = call.inputs[0], c.constant(call.inputs[1])
    axis = call.get("axis", 0) % max(1, len(c.shape(x)))
    if indices is None:
        return None
    extent = c.shape(x)[axis]
    if indices.size and not (-extent <= int(indices.min()) and int(indices.max()) < extent):
        raise Unsupported(f"gathers index {int(indices.max())} of an axis of {extent}")
    return c.emit(Gather(axis), x, c.add_constant(np.where(indices < 0, indices + extent, indices)))


@converts("DepthToSpace")
def depth_to_space(c: Conversion, call: Call) -> str:
    n, channels, height, width = c.shape(call.inputs[0])
    b = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        shape, permutation = (n, channels // (b * b), b, b, height, width), (0, 1, 4, 2, 5, 3)
    else:
        shape, permutation = (n, b, b, channels // (b * b), height, width), (0, 3, 4, 1, 5, 2)
    moved = c.emit(Transpose(permutation), c.emit(Reshape(shape), call.inputs[0]))
    return c.emit(Reshape((n, channels // (b * b), height * b, width * b)), moved)


@converts("SpaceToDepth")
def space_to_depth(c: Conversion, call: Call) -> str:
    n, channels, height, width = c.shape(call.inputs[0])
    b = call.get("blocksize")
    split = c.emit(Reshape((n, channels, height // b, b, width // b, b)), call.inputs[0])
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return c.emit(Reshape((n, channels * b * b, height // b, width // b)), c.emit(Transpose(order), split))
