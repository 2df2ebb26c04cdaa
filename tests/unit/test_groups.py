"""Which nodes become one kernel, and which values share memory, on small integer graphs written as text."""

from __future__ import annotations

from qcc.codegen.groups import group
from qcc.codegen.kernel import View
from qcc.codegen.placing import Capabilities, Place, Placer
from qcc.codegen.tables import groups_for
from qcc.codegen.target import find_target
from qcc.ir import Graph, parse, verify
from qcc.ir.types import U8

CONVOLUTION = """
graph "g" INTEGER
input %x: u8[1,4,4,2]
const %w: i8[2,1,1,2] = [[[[1, 2]]], [[[3, 4]]]]
const %b: i32[2] = [0, 0]
const %m: i32[2] = [5, 6]
const %one: i32[] = 7
%s: i32[1,4,4,2] = integer_convolution(%x, %w, %b) {strides=(1, 1), dilations=(1, 1), groups=1}
"""
ONE = "{zero_points=(0,), shift=8, zero_point=0, low=0, high=255, dtype='u8'}"
TWO = "{zero_points=(0, 3), shift=8, zero_point=0, low=0, high=255, dtype='u8'}"
STRIDED, SCATTERED = Capabilities(True), Capabilities(True, scattered=True)


def graph_of(*lines: str, before: str = CONVOLUTION) -> Graph:
    graph = parse(before + "\n".join(lines))
    verify(graph)
    return graph


def labels(graph: Graph) -> list[tuple[str, ...]]:
    return [tuple(node.outputs[0] for node in entry.nodes) for entry in group(graph)]


def test_a_requantization_is_fused() -> None:
    graph = graph_of(f"%y: u8[1,4,4,2] = requantize(%s, %m) {ONE}", 'output "y" = %y')
    assert labels(graph) == [("s", "y")]
    (entry,) = group(graph)
    assert (entry.label, entry.inputs(graph), entry.outputs) == ("y", ("x",), ("y",))


def test_a_residual_is_fused() -> None:
    graph = graph_of(f"%y: u8[1,4,4,2] = requantize(%s, %m, %x, %one) {TWO}", 'output "y" = %y')
    assert labels(graph) == [("s", "y")]
    assert group(graph)[0].inputs(graph) == ("x",)


def test_the_anchor_waits_for_its_residual() -> None:
    graph = graph_of(f"%r: u8[1,4,4,2] = requantize(%x, %one) {ONE}",
                     f"%y: u8[1,4,4,2] = requantize(%s, %m, %r, %one) {TWO}", 'output "y" = %y')
    assert labels(graph) == [("r",), ("s", "y")]


def pooled(*more: str, multipliers: str = "[5, 6]", stride: int = 2) -> list[tuple[str, ...]]:
    """Groups, as x86 has them, of the convolution with a maximum behind it."""
    extent = 4 - stride
    maximum = f"%p: u8[1,{extent},{extent},2] = window_max(%y) {{kernel=(2, 2), strides=({stride}, {stride}), dilations=(1, 1)}}"
    graph = graph_of(f"%y: u8[1,4,4,2] = requantize(%s, %m) {ONE}", maximum, *more, 'output "p" = %p',
                     before=CONVOLUTION.replace("[5, 6]", multipliers))
    return [tuple(node.outputs[0] for node in entry.nodes) for entry in groups_for(find_target("x86-64-avx2"), graph)]


def test_a_maximum_is_fused_where_windows_do_not_overlap() -> None:
    assert pooled() == [("s", "y", "p")]
    assert pooled(stride=1) == [("s", "y"), ("p",)]


def test_a_maximum_is_not_fused_behind_what_falls_or_is_read_elsewhere() -> None:
    assert pooled(multipliers="[5, -6]") == [("s", "y"), ("p",)]
    assert pooled('output "y" = %y') == [("s", "y"), ("p",)]


def test_accumulators_with_two_readers_stay_in_memory() -> None:
    graph = graph_of(f"%y: u8[1,4,4,2] = requantize(%s, %m) {ONE}", f"%z: u8[1,4,4,2] = requantize(%s, %one) {ONE}",
                     'output "y" = %y', 'output "z" = %z')
    assert labels(graph) == [("s",), ("y",), ("z",)]


def test_accumulators_that_leave_stay_in_memory() -> None:
    graph = graph_of(f"%y: u8[1,4,4,2] = requantize(%s, %m) {ONE}", 'output "y" = %y', 'output "s" = %s')
    assert labels(graph) == [("s",), ("y",)]


def test_constant_addends_broadcast_residuals_and_odd_multipliers_are_not_fused() -> None:
    constant = "const %c: i32[2] = [1, 2]"
    narrow = "input %r: u8[1,1,1,2]"
    spatial = "const %n: i32[4,1] = [[1], [2], [3], [4]]"
    lines = {
        f"%y: u8[1,4,4,2] = requantize(%s, %m, %c, %one) {TWO}": constant,
        f"%y: u8[1,4,4,2] = requantize(%s, %m, %r, %one) {TWO}": narrow,
        f"%y: u8[1,4,4,2] = requantize(%s, %m, %x, %m) {TWO}": constant,
        f"%y: u8[1,4,4,2] = requantize(%s, %n) {ONE}": spatial,
    }
    for line, declaration in lines.items():
        assert labels(graph_of(declaration, line, 'output "y" = %y')) == [("s",), ("y",)]


def test_two_accumulators_of_one_sum_are_fused_with_the_first_only() -> None:
    second = "%t: i32[1,4,4,2] = integer_convolution(%x, %w, %b) {strides=(1, 1), dilations=(1, 1), groups=1}"
    graph = graph_of(second, "%y: u8[1,4,4,2] = requantize(%s, %m, %t, %one) " + TWO.replace("3", "0"), 'output "y" = %y')
    assert labels(graph) == [("s",), ("t",), ("y",)]


BYTES = """
graph "g" INTEGER
input %x: u8[1,2,3,4]
const %t: u8[256] = [""" + ", ".join(map(str, range(256))) + """]
%a: u8[1,2,3,4] = lookup(%x, %t)
"""


PADDED = "%p: u8[1,3,3,4] = pad(%a) {before=(0, 1, 0, 0), after=(0, 0, 0, 0), value=7}"


def places(graph: Graph, capabilities: Capabilities = STRIDED) -> dict[str, Place]:
    return dict(Placer(graph, group(graph), lambda _: capabilities).run())


def test_padding_is_written_in_place() -> None:
    graph = graph_of("%p: u8[1,4,4,4] = pad(%a) {before=(0, 1, 1, 0), after=(0, 1, 0, 0), value=7}", 'output "y" = %p', before=BYTES)
    assert places(graph)["a"] == Place("p", 20, View(U8, (1, 2, 3, 4), (64, 16, 4, 1)))
    assert places(graph, Capabilities(False))["a"] == Place("a", 0, View.contiguous(U8, (1, 2, 3, 4)))


def test_parts_of_a_concatenation_interleave() -> None:
    graph = graph_of("%b: u8[1,2,3,4] = lookup(%a, %t)", "%c: u8[1,2,3,12] = concat(%a, %b, %x) {axis=3}", 'output "y" = %c', before=BYTES)
    found = places(graph)
    assert [(found[n].root, found[n].offset) for n in "abcx"] == [("c", 0), ("c", 4), ("c", 0), ("x", 0)]
    assert found["b"].view.strides == (72, 36, 12, 1)


def test_a_part_that_stands_twice_is_copied() -> None:
    graph = graph_of("%c: u8[1,2,3,8] = concat(%a, %a) {axis=3}", 'output "y" = %c', before=BYTES)
    assert places(graph)["a"].root == "a"


def test_an_output_is_no_part_of_another_buffer() -> None:
    graph = graph_of(PADDED, 'output "y" = %p', 'output "a" = %a', before=BYTES)
    assert places(graph)["a"].root == "a"


def test_slices_are_views() -> None:
    part = "%s: u8[1,2,2,2] = slice(%a) {starts=(0, 0, 1, 2), stops=(1, 2, 3, 4), steps=(1, 1, 1, 1)}"
    graph = graph_of(part, "%b: u8[1,2,2,2] = lookup(%s, %t)", 'output "y" = %b', before=BYTES)
    assert places(graph)["s"] == Place("a", 6, View(U8, (1, 2, 2, 2), (24, 12, 4, 1)))


def test_reshapes_share_and_want_dense_sources() -> None:
    graph = graph_of("%r: u8[6,4] = reshape(%a) {shape=(6, 4)}", PADDED, 'output "y" = %r', 'output "p" = %p', before=BYTES)
    assert (places(graph)["r"].root, places(graph)["a"].root) == ("a", "a")


def test_transpositions_are_written_by_those_that_can() -> None:
    graph = graph_of("%n: u8[1,3,4,2] = transpose(%a) {permutation=(0, 2, 3, 1)}", 'output "y" = %n', before=BYTES)
    assert places(graph, SCATTERED)["a"] == Place("n", 0, View(U8, (1, 2, 3, 4), (24, 1, 8, 2)))
    assert places(graph)["a"].root == "a"


def test_joined_parts_are_not_scattered_through_their_whole() -> None:
    """Writers into a concatenation know strides, not transpositions: the whole must stay where it is."""
    graph = graph_of("%b: u8[1,2,3,4] = lookup(%a, %t)", "%c: u8[1,2,3,8] = concat(%a, %b) {axis=3}",
                     "%n: u8[1,3,8,2] = transpose(%c) {permutation=(0, 2, 3, 1)}", 'output "y" = %n', before=BYTES)
    assert places(graph, SCATTERED)["c"].root == "c"
