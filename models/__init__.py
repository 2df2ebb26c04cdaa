"""Models to compile, try and measure: four small ones that are part of the package, published ones by name, and built ones."""

if __name__ != "qcc.models":
    raise ImportError("models/ is the package qcc.models: write 'import qcc.models', never 'import models'")
