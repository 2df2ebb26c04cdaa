"""placeholder"""

if __name__ != "qcc.passes":
    raise ImportError("passes/ is the package qcc.passes: write 'import qcc.passes', never 'import passes'")
