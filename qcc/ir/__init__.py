"""The intermediate representation: types, graphs, stages, text form, verification, interpretation and pass pipelines."""

from qcc.ir.graph import Graph, GraphBuilder, Node, digest
from qcc.ir.interpret import check_feeds, interpret
from qcc.ir.op import ALL_STAGES, FLOATING, INTEGER_ONLY, Op, Stage, expect
from qcc.ir.pipeline import Numerics, Observer, Pass, Pipeline, Step, unobserved, until_stable
from qcc.ir.text import dump, format_node, format_type, parse
from qcc.ir.types import Array, DType, Encoding, TensorType
from qcc.ir.verify import verify

__all__ = [
    "ALL_STAGES", "FLOATING", "INTEGER_ONLY", "Array", "DType", "Encoding", "Graph", "GraphBuilder", "Node", "Numerics", "Observer",
    "Op", "Pass", "Pipeline", "Stage", "Step", "TensorType", "check_feeds", "digest", "dump", "expect", "format_node",
    "format_type", "interpret", "parse", "unobserved", "until_stable", "verify",
]
