"""`--dump-passes FOLDER`: the network after every pass that changed it, as text."""

from __future__ import annotations

from pathlib import Path

from qcc.errors import OutputError
from qcc.ir import Graph, Step, dump


class PassDumps:
    """An observer of pipelines that writes 00-imported.qir, 01-NAME.qir and so on: two of them can be compared line by line.

    Args:
        folder: made if it is not there.

    Raises:
        OutputError: it holds something, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise OutputError(f"--dump-passes {folder}: there are files in it; choose another folder")
        except OSError as error:
            raise OutputError(f"--dump-passes {folder}: {error.strerror or error}") from error

    def __call__(self, step: Step, before: Graph, after: Graph) -> None:
        if self.written == 0:
            self.write("imported", before)
        if after is not before:
            self.write(step.name, after)

    def write(self, name: str, graph: Graph) -> None:
        file = self.folder / f"{self.written:02}-{name}.qir"
        try:
            file.write_text(dump(graph), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"--dump-passes {file}: {error.strerror or error}") from error
        self.written += 1
