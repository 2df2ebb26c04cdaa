"""Simplification: however a network was exported, it ends as the same plain chain of convolutions, products, sums and clips.

SIMPLIFY is the pipeline. Cheap clean-up comes first, then operators get their plain forms, then transposes and reshapes sink, so that
arithmetic comes to stand next to the convolutions that it belongs to and is folded into their weights; what became equal or dead goes.
"""

from collections.abc import Callable

from qcc.ir import Graph, Numerics, Pass, Stage, Step
from qcc.passes.simplify.affine import decompose_batchnorm, normalize_arithmetic
from qcc.passes.simplify.fold import fold_constants, merge_equal, remove_dead, remove_identities
from qcc.passes.simplify.functions import recognize_functions
from qcc.passes.simplify.order import canonical_order
from qcc.passes.simplify.reshapes import recognize_shuffle, sink_layout
from qcc.passes.simplify.transposes import keep_reduced_axes
from qcc.passes.simplify.weights import fold_affine
from qcc.passes.simplify.widen import widen_halves
from qcc.passes.simplify.windows import fold_padding, merge_clips, name_global_pools

__all__ = ["KEEPING_NORMS", "SIMPLIFY"]


def _pass(run: Callable[[Graph], Graph], numerics: Numerics) -> Step:
    return Pass(run.__name__, Stage.FLOAT, Stage.FLOAT, numerics, run)


_CLEAN = (
    _pass(remove_dead, Numerics.EXACT), _pass(fold_constants, Numerics.EXACT), _pass(remove_identities, Numerics.EXACT),
    _pass(merge_equal, Numerics.EXACT),
)
_FORMS = (
    _pass(keep_reduced_axes, Numerics.EXACT), _pass(recognize_shuffle, Numerics.EXACT), _pass(name_global_pools, Numerics.CLOSE),
    # Before arithmetic is merged: the last factor of a function may go into the weights behind it.
    _pass(recognize_functions, Numerics.CLOSE), _pass(decompose_batchnorm, Numerics.CLOSE),
)
_FUSION = (
    _pass(normalize_arithmetic, Numerics.CLOSE), _pass(sink_layout, Numerics.CLOSE), _pass(merge_clips, Numerics.EXACT),
    _pass(recognize_functions, Numerics.CLOSE), _pass(fold_padding, Numerics.EXACT), _pass(fold_affine, Numerics.CLOSE),
)

# What one round brings side by side, the next one joins.
SIMPLIFY: tuple[Step, ...] = (
    _pass(widen_halves, Numerics.CLOSE), *_CLEAN, *_FORMS, *_FUSION, *_CLEAN, *_FUSION, *_CLEAN, _pass(canonical_order, Numerics.EXACT),
)

# For whoever needs the statistics that BatchNorms remember: plain forms of all else.
KEEPING_NORMS: tuple[Step, ...] = (
    _pass(widen_halves, Numerics.CLOSE), *_CLEAN, *(step for step in _FORMS if step.run is not decompose_batchnorm),
    _pass(fold_padding, Numerics.EXACT), *_CLEAN,
)
