"""Mixed precision as an integer program: sites, their candidates, what borders between them cost, budgets."""

from qcc.passes.mixed.baselines import greedy, uniform
from qcc.passes.mixed.problem import Assignment, Border, Candidate, Problem, Site
from qcc.passes.mixed.program import Solution, solve

__all__ = ["Assignment", "Border", "Candidate", "Problem", "Site", "Solution", "greedy", "solve", "uniform"]
