"""placeholder"""

if __name__ != "qcc.codegen":
    raise ImportError("codegen/ is the package qcc.codegen: write 'import qcc.codegen', never 'import codegen'")
