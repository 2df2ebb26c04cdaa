"""The benchmarks start and measure what they say; how fast anything is, is no matter for a test."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="qcc/peak.c is written for x86-64")


@x86_only
@pytest.mark.parametrize("options", [["-march=native"], ["-mavx2"]])
def test_peak_reports_rates(options: list[str], tmp_path: Path) -> None:
    program = tmp_path / "peak"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", program, FOLDER.parent / "qcc" / "peak.c"], check=True)
    done = subprocess.run([program, "4096", "1000000"], capture_output=True, text=True, check=True)
    peak, small, large = (json.loads(line) for line in done.stdout.splitlines())
    assert peak["macs_per_second"] > 1e9
    assert (small["bytes"], large["bytes"]) == (4096, 1000000)
    assert small["bytes_per_second"] > 1e8
    assert large["bytes_per_second"] > 1e8


def test_embeddings_are_tokenized_and_compared() -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        embeddings = importlib.import_module("embeddings")
    finally:
        sys.path.remove(str(FOLDER))
    words = ("[UNK]", "[CLS]", "[SEP]", "un", "##known", "word", ".")
    feeds = embeddings.encode("Unknown wörd.  qz", {word: number for number, word in enumerate(words)}, 8)
    assert feeds["input_ids"].tolist() == [[1, 3, 4, 5, 6, 0, 2, 0]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]
    assert len(embeddings.sentences()) > 1000


def test_machine_code_of_gpus_explains_itself() -> None:
    done = subprocess.run([sys.executable, FOLDER / "cuda_static.py", "--help"], capture_output=True, text=True, check=True,
                          cwd=FOLDER.parent, env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)})
    assert "--sm" in done.stdout
    assert "occupancy" in done.stdout


@pytest.mark.skipif(any(shutil.which(name) is None for name in ("qemu-aarch64", "aarch64-linux-gnu-gcc")),
                    reason="ARM IS NOT TESTED: qemu-aarch64 or aarch64-linux-gnu-gcc is missing")
def test_instructions_are_counted(tmp_path: Path) -> None:
    """A loop of two instructions, a million times."""
    loop = r"mov x0, #16960\n movk x0, #15, lsl #16\n 1: subs x0, x0, #1\n b.ne 1b"
    (tmp_path / "loop.c").write_text(f'int main(void) {{ __asm__("{loop}" ::: "x0", "cc"); return 0; }}')
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    subprocess.run(["cc", *options, "-o", tmp_path / "plugin.so", FOLDER / "instructions.c"], check=True)
    subprocess.run(["aarch64-linux-gnu-gcc", "-O2", "-static", "-o", tmp_path / "loop", tmp_path / "loop.c"], check=True)
    done = subprocess.run(["qemu-aarch64", "-plugin", tmp_path / "plugin.so", "-d", "plugin", tmp_path / "loop"],
                          capture_output=True, text=True, check=True)
    assert 2_000_000 < int(done.stderr.split("instructions: ")[1]) < 2_200_000


def test_latency_explains_itself() -> None:
    done = subprocess.run([sys.executable, FOLDER / "latency.py", "--help"], capture_output=True, text=True, check=True,
                          cwd=FOLDER.parent, env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)})
    assert "--against" in done.stdout
    assert "resnet50" in done.stdout


def test_models_of_ncnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalization and activation are part of the layer, which writes bytes for another that reads them; copies are explicit."""
    monkeypatch.syspath_prepend(str(FOLDER))
    arm_ncnn = importlib.import_module("arm_ncnn")
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "gamma": (4,), "beta": (4,), "mean": (4,), "w2": (4, 4, 1, 1)}
    tensors = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
    tensors.append(numpy_helper.from_array(np.ones(4, np.float32), "variance"))
    own = {"group": 1, "dilations": [1, 1], "strides": [2, 2]}
    nodes = [helper.make_node("Conv", ["input", "w1"], ["c1"], pads=[1, 1, 1, 1], **own),
             helper.make_node("BatchNormalization", ["c1", "gamma", "beta", "mean", "variance"], ["n1"]),
             helper.make_node("Relu", ["n1"], ["r1"]), helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[0, 0, 0, 0], **own),
             helper.make_node("Add", ["c2", "c2"], ["logits"])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("input", "logits")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "small", values[:1], values[1:], tensors)), tmp_path / "small.onnx")
    arm_ncnn.write(tmp_path / "small.onnx", tmp_path / "small")
    assert (tmp_path / "small.param").read_text().splitlines() == [
        "7767517", "5 6", "Input input 0 1 input 0=224 1=224 2=3",
        "Convolution c1 1 1 input r1 0=4 1=3 2=1 3=2 4=1 5=1 6=108 8=101 9=1",
        "Convolution c2 1 1 r1 c2 0=4 1=1 2=1 3=2 4=0 5=1 6=16 8=1", "Split c2_split 1 2 c2 c2_0 c2_1",
        "BinaryOp logits 2 1 c2_0 c2_1 logits 0=0"]
    numbers = (4 + 4 + 2) + (4 + 4 + 1)      # bias, scales of weights, of values
    assert (tmp_path / "small.bin").stat().st_size == 2 * 4 + 108 + 16 + 4 * numbers
