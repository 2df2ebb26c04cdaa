"""Runs compiled models: `load(folder)` gives a `Module`. Needs NumPy and the standard library, and nothing of the compiler."""

if __name__ != "qcc.runtime":
    raise ImportError("runtime/ is the package qcc.runtime: write 'import qcc.runtime', never 'import runtime'")

from qcc.runtime.manifest import ArgumentRecord, Manifest, PortRecord, StepRecord
from qcc.runtime.module import Module, load

__all__ = ["ArgumentRecord", "Manifest", "Module", "PortRecord", "StepRecord", "load"]
