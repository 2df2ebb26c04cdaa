"""The pinned pair of TVM and its FFI: a mismatch imports well and crashes only once a schedule tensorizes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TENSORIZE = '''
from tvm import s_tir, te
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T


@T.prim_func(s_tir=True)
def described(a: T.Buffer((4,), "uint8", offset_factor=1), b: T.Buffer((8, 4), "int8", offset_factor=1),
              c: T.Buffer((8,), "int32", offset_factor=1)) -> None:
    with T.sblock("root"):
        T.reads(c[0:8], a[0:4], b[0:8, 0:4])
        T.writes(c[0:8])
        for i in T.serial(0, 8):
            for k in T.serial(0, 4):
                with T.sblock("step"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")


@T.prim_func(s_tir=True)
def implemented(a: T.Buffer((4,), "uint8", offset_factor=1), b: T.Buffer((8, 4), "int8", offset_factor=1),
                c: T.Buffer((8,), "int32", offset_factor=1)) -> None:
    with T.sblock("root"):
        T.reads(c[0:8], a[0:4], b[0:8, 0:4])
        T.writes(c[0:8])
        c[T.ramp(T.int32(0), 1, 8)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.256"),
            c.vload([0], dtype="int32x8"),
            T.reinterpret(T.broadcast(T.reinterpret(a.vload([0], "uint8x4"), dtype="int32"), 8), dtype="int8x32"),
            b.vload([0, 0], dtype="int8x32"),
            dtype="int32x8",
        )


TensorIntrin.register("dot", described, implemented)
a, b = te.placeholder((3, 16), "uint8", "a"), te.placeholder((4, 8, 4), "int8", "b")
k = te.reduce_axis((0, 16), "k")
product = te.compute((3, 8), lambda i, j: te.sum(a[i, k].astype("int32") * b[k // 4, j, k % 4].astype("int32"), axis=k), name="c")
work = s_tir.Schedule(te.create_prim_func([a, b, product]))
block = work.get_sblock("c")
i, j, k = work.get_loops(block)
word, byte = work.split(k, [None, 4])
work.reorder(i, word, j, byte)
work.decompose_reduction(block, word)
work.tensorize(j, "dot")
print("vpdpbusd" in str(work.mod))
'''


def test_tensorizing_does_not_crash(tmp_path: Path) -> None:
    script = tmp_path / "tensorize.py"      # a file, since the script parser reads its own source
    script.write_text(TENSORIZE, encoding="utf-8")
    process = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout.strip()) == (0, "True"), process.stderr


def test_the_installed_pair_is_the_pinned_one() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    for package in ("apache-tvm", "apache-tvm-ffi"):
        assert f"{package}=={version(package)}" in dependencies
