"""`python -m qcc`: the command line."""

from qcc.cli import main

main(prog_name="qcc")
