"""How long the integer program takes on large networks: layers of 8 candidates in a chain, with border costs and two budgets.

    python benchmarks/integer_program.py [--layers 150] [--instances 5]

Each line: seconds of the solver (and of the processor), the certified gap, and the losses of the optimum and of the greedy choice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from qcc.passes.mixed import Border, Candidate, Problem, Site, greedy, solve

LABELS = tuple(f"w{weights}a{activations}" for weights in (8, 4, 3, 2) for activations in (8, 4))


def network(layers: int, seed: int) -> Problem:
    """Layers of random size and sensitivity; activations of other widths on either side of a border cost time."""
    rng = np.random.default_rng(seed)
    sites = []
    for number in range(layers):
        size, sensitivity = np.exp(rng.normal(0.0, 1.5)), np.exp(rng.normal(0.0, 2.0))
        candidates = []
        for label in LABELS:
            weights, activations = int(label[1]), int(label[3])
            loss = sensitivity * (4.0**-weights * rng.uniform(0.5, 2.0) + 4.0**-activations * rng.uniform(0.5, 2.0))
            latency = np.sqrt(size) * ((4.0 + weights) * rng.uniform(0.9, 1.1) + 0.3 * activations)
            candidates.append(Candidate(label, {"loss": float(loss), "size": float(size * weights), "latency": float(latency)}))
        sites.append(Site(f"layer{number}", tuple(candidates)))
    borders = []
    for first, second in pairwise(sites):
        costs = {("a8", "a4"): float(rng.uniform(0.1, 1.0)), ("a4", "a8"): float(rng.uniform(0.1, 1.0))}
        table = {(a, b): {"latency": costs[a[2:], b[2:]]} for a in LABELS for b in LABELS if a[2:] != b[2:]}
        borders.append(Border(first.name, second.name, table))
    return Problem(tuple(sites), tuple(borders))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=150)
    parser.add_argument("--instances", type=int, default=5)
    chosen = parser.parse_args(arguments)
    for seed in range(chosen.instances):
        problem = network(chosen.layers, seed)
        for share in (0.2, 0.4, 0.7):
            budgets = {}
            for measure in ("size", "latency"):
                ends = [sum(f(c.values[measure] for c in site.candidates) for site in problem.sites) for f in (min, max)]
                budgets[measure] = ends[0] + share * (ends[1] - ends[0])
            start = time.process_time()
            found = solve(problem, budgets, gap=1e-3)
            busy, other = time.process_time() - start, greedy(problem, budgets)
            reached = "none" if other is None else f"{problem.total(other, 'loss'):.5f}"
            print(f"instance {seed}, budgets {share:.0%}: {found.seconds:5.2f} s ({busy:.2f}), gap {found.gap:.2%}, "
                  f"loss {found.values['loss']:.5f}, greedy {reached}", flush=True)


if __name__ == "__main__":
    main()
