"""Numbers that must be equal, or each other's inverse, or one: union-find with exponents.

A label is an integer: `i` stands for the number x_i, `-i` for 1 / x_i, and 0 for one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qcc.ir import Array


@dataclass
class Ties:
    """Positive numbers x_1, x_2, ... and what is known about them: x_i = x_parent(i) ** exponent(i). x_0 is one."""

    parents: list[int] = field(default_factory=lambda: [0])
    exponents: list[int] = field(default_factory=lambda: [1])

    def fresh(self, count: int) -> Array:
        """Labels of so many numbers of which nothing is known yet."""
        first = len(self.parents)
        self.parents += range(first, first + count)
        self.exponents += [1] * count
        return np.arange(first, first + count)

    def find(self, label: int) -> int:
        """The label of the root that stands for this label's number."""
        number, exponent = abs(label), 1 if label >= 0 else -1
        path = []
        while self.parents[number] != number:
            path.append(number)
            number = self.parents[number]
        for position in range(len(path) - 1, -1, -1):      # from the root outwards: every number learns its root
            step = path[position]
            if self.parents[step] != number:
                self.exponents[step] *= self.exponents[self.parents[step]]
                self.parents[step] = number
        return number * exponent * (self.exponents[path[0]] if path else 1)

    def tie(self, a: int, b: int) -> None:
        """From now on the numbers of both labels are equal."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        if abs(a) == abs(b):      # x = 1 / x
            self.parents[abs(a)] = 0
            return
        if a == 0:
            a, b = b, a
        self.parents[abs(a)] = abs(b)
        self.exponents[abs(a)] = 1 if (a > 0) == (b > 0) else -1

    def tie_arrays(self, a: Array, b: Array) -> None:
        """`tie` for every pair of elements; both broadcast against each other."""
        pairs = np.stack([part.reshape(-1) for part in np.broadcast_arrays(a, b)], axis=1)
        for left, right in np.unique(pairs, axis=0).tolist():
            self.tie(left, right)

    def collapse(self, labels: Array, axes: tuple[int, ...]) -> Array:
        """The labels with extent 1 along these axes, along which all are tied."""
        for axis in axes:
            if labels.shape[axis] > 1:
                first = labels.take([0], axis)
                self.tie_arrays(labels, first)
                labels = first
        return labels

    def roots(self, labels: Array) -> Array:
        """`find` for every element."""
        known: dict[int, int] = {label: self.find(label) for label in np.unique(labels).tolist()}
        return np.vectorize(known.__getitem__, otypes=[np.int64])(labels) if labels.size else labels
