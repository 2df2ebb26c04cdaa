"""A choice of precisions as data: sites that take one candidate each, what candidates and pairs of them cost, and which sites agree.

A measure is a number that adds up over a network: "loss", "latency", "size". This module says what an assignment's measures are; it
decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import networkx as nx

from qcc.errors import UsageError

Assignment = Mapping[str, str]      # site -> label of a candidate
Values = Mapping[str, float]        # measure -> value; what is not named is 0


@dataclass(frozen=True)
class Candidate:
    """One way to do what a site does.

    Attributes:
        label: unique within the site; tied sites take equal labels.
        values: what the candidate adds to each measure.
    """

    label: str
    values: Values


@dataclass(frozen=True)
class Site:
    """One choice. `kind` groups sites that a uniform assignment gives one label ("weights", "activations")."""

    name: str
    candidates: tuple[Candidate, ...]
    kind: str = ""

    def __getitem__(self, label: str) -> Candidate:
        return next(candidate for candidate in self.candidates if candidate.label == label)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(candidate.label for candidate in self.candidates)


@dataclass(frozen=True)
class Border:
    """What two sites' labels cost together, beside what each costs alone; pairs that are not listed cost nothing."""

    first: str
    second: str
    values: Mapping[tuple[str, str], Values]


@dataclass(frozen=True)
class Problem:
    """Sites, borders, ties, and what is there whatever is chosen.

    Attributes:
        ties: groups of sites that take one label; a site may be in several groups.

    Raises:
        UsageError: names that do not fit each other, or values that are not finite.
    """

    sites: tuple[Site, ...]
    borders: tuple[Border, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    fixed: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names) or any(not site.candidates for site in self.sites):
            raise UsageError("an integer program needs sites of different names, each with a candidate")
        missing = sorted({name for tie in (*self.ties, *((b.first, b.second) for b in self.borders)) for name in tie} - set(names))
        if missing:
            raise UsageError(f"an integer program has ties or borders of {', '.join(missing[:5])}, which are none of its sites")
        for where, values in self._all_values():
            bad = [measure for measure, value in values.items() if not -1e300 < value < 1e300]
            if bad:
                raise UsageError(f"{where}: {bad[0]} is {values[bad[0]]}, expected a finite number")

    def _all_values(self) -> Iterable[tuple[str, Values]]:
        yield "the fixed part", self.fixed
        for site in self.sites:
            yield from ((f"site {site.name}, candidate {candidate.label}", candidate.values) for candidate in site.candidates)
        for border in self.borders:
            yield from ((f"border {border.first} to {border.second}", values) for values in border.values.values())

    @cached_property
    def by_name(self) -> Mapping[str, Site]:
        return {site.name: site for site in self.sites}

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """Every measure that anything has, sorted."""
        return tuple(sorted({measure for _, values in self._all_values() for measure in values}))

    def total(self, assignment: Assignment, measure: str) -> float:
        """One measure of a whole assignment."""
        value = self.fixed.get(measure, 0.0)
        value += sum(site[assignment[site.name]].values.get(measure, 0.0) for site in self.sites)
        for border in self.borders:
            value += border.values.get((assignment[border.first], assignment[border.second]), {}).get(measure, 0.0)
        return value

    def totals(self, assignment: Assignment) -> dict[str, float]:
        return {measure: self.total(assignment, measure) for measure in self.measures}

    def contracted(self) -> tuple[Problem, dict[str, str]]:
        """The same problem without ties, and the site that stands for each of the old ones.

        Raises:
            UsageError: tied sites have no label in common.
        """
        joined: nx.Graph[str] = nx.Graph()
        joined.add_nodes_from(site.name for site in self.sites)
        for tie in self.ties:
            nx.add_path(joined, tie)
        leader = {}
        for group in nx.connected_components(joined):
            first = next(site.name for site in self.sites if site.name in group)
            leader.update(dict.fromkeys(group, first))
        groups: dict[str, list[Site]] = {}
        for site in self.sites:
            groups.setdefault(leader[site.name], []).append(site)
        sites = {name: _merged(name, group) for name, group in groups.items()}
        borders: list[Border] = []
        for border in self.borders:
            first, second = leader[border.first], leader[border.second]
            if first != second:
                borders.append(replace(border, first=first, second=second))
            else:
                own = sites[first].candidates
                same = (replace(c, values=_sum(c.values, border.values.get((c.label, c.label), {}))) for c in own)
                sites[first] = replace(sites[first], candidates=tuple(same))
        return Problem(tuple(sites.values()), tuple(borders), (), self.fixed), leader


def _merged(name: str, group: list[Site]) -> Site:
    labels = [label for label in group[0].labels if all(label in site.labels for site in group)]
    if not labels:
        raise UsageError(f"sites {', '.join(site.name for site in group[:4])} are tied, but have no candidate in common")
    candidates = (Candidate(label, _sum(*(site[label].values for site in group))) for label in labels)
    return Site(name, tuple(candidates), group[0].kind)


def _sum(*parts: Values) -> Values:
    measures = dict.fromkeys(measure for part in parts for measure in part)
    return {measure: sum(part.get(measure, 0.0) for part in parts) for measure in measures}
