"""ONNX: the front end, and the way back for float evaluation and for other tools."""

from qcc.onnx.exporter import export_model
from qcc.onnx.importer import import_model
from qcc.onnx.operator import evaluate_operator, export_operator
from qcc.onnx.runner import FloatRunner, prepare
from qcc.onnx.single import export_node

__all__ = ["FloatRunner", "evaluate_operator", "export_model", "export_node", "export_operator", "import_model", "prepare"]
