"""A compiled network before it is saved: the graphs of every stage, the program, its objects, and what to tell the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qcc.codegen.artifact import ArtifactTexts, build_artifact
from qcc.codegen.program import Program
from qcc.codegen.target import Target
from qcc.ir import Graph
from qcc.recipe import Recipe
from qcc.runtime.manifest import Manifest
from qcc.summary import Summary


@dataclass(frozen=True)
class Artifact:
    """What a compile made.

    Attributes:
        float_graph, quantized_graph, graph: the network in stages FLOAT, QDQ and INTEGER.
        objects: the kernels, as relocatable object files.
    """

    recipe: Recipe
    target: Target
    float_graph: Graph
    quantized_graph: Graph
    graph: Graph
    program: Program
    objects: tuple[bytes, ...]
    texts: ArtifactTexts
    summary: Summary

    def save(self, path: str | Path, force: bool = False) -> Manifest:
        """Link the library and write the artifact folder, completely or not at all.

        Args:
            force: replace an artifact that is there.

        Raises:
            OutputError: the folder exists or cannot be written.
            CodegenError: the C compiler or the linker failed.
        """
        with TemporaryDirectory(prefix="qcc-") as folder:
            objects = [Path(folder, f"kernels{number}.o") for number in range(len(self.objects))]
            for file, content in zip(objects, self.objects, strict=True):
                file.write_bytes(content)
            return build_artifact(self.program, objects, self.target, self.texts, Path(path), force)
