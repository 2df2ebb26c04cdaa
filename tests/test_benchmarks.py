"""The benchmarks start and measure what they say; how fast anything is, is no matter for a test."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
