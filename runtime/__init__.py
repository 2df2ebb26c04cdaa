"""placeholder"""

if __name__ != "qcc.runtime":
    raise ImportError("runtime/ is the package qcc.runtime: write 'import qcc.runtime', never 'import runtime'")
