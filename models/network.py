"""Writes ONNX networks node by node: names, constants and the few operators that image networks consist of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
OPSET = 17
IR_VERSION = 8
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class Network:
    """A network while it is written; `model` gives the finished one. Values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def constant(self, name: str, numbers: Array | float) -> str:
        """A named constant (a number is a float32); the same name always stands for the same array."""
        array: Array = np.asarray(numbers, np.float32) if isinstance(numbers, float) else numbers
        if name in self.constants and not np.array_equal(self.constants[name], array):
            raise ValueError(f"constant {name!r} is already another array")
        self.constants[name] = array
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output, named after its operator and its place; returns the output's name."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def conv(self, value: str, name: str, weight: Array, bias: Array | None = None, *, stride: int = 1,
             pads: tuple[int, int, int, int] | None = None, group: int = 1) -> str:
        """A convolution; `pads` are top, left, bottom, right, by default half the kernel on every side."""
        height, width = weight.shape[2:]
        inputs = [value, self.constant(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
        return self.node("Conv", *inputs, kernel_shape=[height, width], strides=[stride, stride], group=group, dilations=[1, 1],
                         pads=list(pads or (height // 2, width // 2, height // 2, width // 2)))

    def batch_norm(self, value: str, name: str, arrays: Iterable[Array], epsilon: float) -> str:
        """A BatchNorm; the arrays are scale, offset, mean and variance, one number per channel."""
        constants = [self.constant(f"{name}.{part}", array) for part, array in zip(BATCH_NORM, arrays, strict=True)]
        return self.node("BatchNormalization", value, *constants, epsilon=epsilon)

    def relu(self, value: str) -> str:
        return self.node("Relu", value)

    def relu6(self, value: str) -> str:
        return self.node("Clip", value, self.constant("zero", 0.0), self.constant("six", 6.0))

    def max_pool(self, value: str, size: int, stride: int, pad: int = 0) -> str:
        return self.node("MaxPool", value, kernel_shape=[size, size], strides=[stride, stride], pads=[pad] * 4)

    def dense(self, value: str, name: str, weight: Array, bias: Array) -> str:
        """A fully connected layer; weight is [outputs, inputs]."""
        constants = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        return self.node("Gemm", value, *constants, transB=1)

    def model(self, name: str, shape: tuple[int | str, ...], outputs: dict[str, tuple[int | str, ...]]) -> onnx.ModelProto:
        """The network with one float32 input, `input`; `outputs` are names of values and their shapes.

        Raises:
            onnx.checker.ValidationError: the network is not valid.
        """
        graph = helper.make_graph(
            self.nodes, name,
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, extents) for output, extents in outputs.items()],
            [numpy_helper.from_array(np.asarray(array, order="C"), key) for key, array in self.constants.items()])
        model = helper.make_model(graph, producer_name="qcc", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
        onnx.checker.check_model(model, full_check=True)
        return model

    def logits(self, name: str, value: str, shape: tuple[int | str, ...], classes: int) -> onnx.ModelProto:
        """The network whose only output is `value`, renamed to `logits`."""
        self.nodes[-1].output[0] = "logits"
        if self.nodes[-1].name != f"node_{value}":
            raise ValueError(f"{value!r} is not the last value")
        return self.model(name, shape, {"logits": (shape[0], classes)})
