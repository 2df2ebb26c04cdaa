"""Checks and times compiled models on an NVIDIA GPU. Needs NumPy, the driver, and a folder of cuda_bundle.py; no TVM, no toolkit.

    python benchmarks/cuda.py bundle                                 # everything
    python benchmarks/cuda.py bundle --minutes 9 --only resnet50     # what fits into nine minutes, the most important first
    python benchmarks/cuda.py bundle --check                         # exactness only

In this order: every artifact's golden pair, and every layer's result against the checksum of what the interpreter computes (tolerance 0);
the int8 products and bytes per second that this GPU reaches, and PyTorch's int8 matrix product; single kernels with several tiles; whole
networks (CUDA events around launches of their graphs, arrays on the GPU) and their layers; networks of torchvision in float16, channels
last, as a graph of eager kernels and compiled; compute-sanitizer. What is not installed is left out and said.

Every part runs in a process of its own (cuda_jobs.py) with a time limit. Results are written after each part, so that an interruption,
a crash or a GPU that hangs costs one part. Exit code 5: something differs; 1: a part failed; 0: neither.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOBS = Path(__file__).resolve().with_name("cuda_jobs.py")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TORCH_NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
SECONDS = {"device": 60, "check": 120, "peak": 60, "races": 240, "network": 120, "torch": 240, "sanitizer": 240}     # limits of parts
LEAST = 5      # seconds that must be left to start a part
Result = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A job and what it is about; `tool` of compute-sanitizer."""

    job: str
    name: str = ""
    tool: str = ""

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.job, self.tool, self.name)))


@dataclass
class Run:
    """All results so far, and the file that has them."""

    bundle: Path
    options: argparse.Namespace
    end: float
    found: Result = field(default_factory=lambda: {"parts": {}, "failed": {}, "left_out": []})

    def result(self, part: Part) -> Result:
        """What a part gave; nothing if it gave nothing."""
        return dict(self.found["parts"].get(part.label, {}))

    def do(self, part: Part) -> Result:
        """Run a part, keep what it gave even if it failed, and write everything down."""
        left = self.end - time.monotonic()
        if left < LEAST:
            self.found["left_out"].append(part.label)
            return {}
        limit = min(left, SECONDS["sanitizer" if part.tool else part.job] * self.options.patience)
        result, error = self._sanitize(part, limit) if part.tool else self._job(part, limit)
        if result:
            self.found["parts"][part.label] = result
        if error:
            self.found["failed"][part.label] = error
            print(f"FAILED {part.label}: {error}", flush=True)
        self.write()
        return result

    def write(self) -> None:
        """The results, in one step."""
        path = self.options.output or self.bundle / "results.json"
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, path)

    def _command(self, part: Part, job: str) -> list[str]:
        numbers = ["--rounds", str(self.options.rounds), "--device", str(self.options.device)]
        return [sys.executable, str(JOBS), job, str(self.bundle), part.name, *numbers]

    def _job(self, part: Part, limit: float) -> tuple[Result, str]:
        code, out, errors = run(self._command(part, part.job), limit)
        lines = [line for line in out.splitlines() if line.startswith("{")]
        return (json.loads(lines[-1]) if lines else {}), _failure(code, errors, limit)

    def _sanitize(self, part: Part, limit: float) -> tuple[Result, str]:
        """The check of an artifact under compute-sanitizer, which finds nothing, or something."""
        command = ["compute-sanitizer", "--tool", part.tool, "--error-exitcode", "9", *self._command(part, "check")]
        code, out, errors = run(command, limit)
        if code in (0, 9):
            return {"clean": code == 0, "text": "" if code == 0 else out.strip()[-600:]}, ""
        return {}, _failure(code, errors or out, limit)


def run(command: Sequence[str], limit: float) -> tuple[int | None, str, str]:
    """Exit status (none: it was stopped at its limit), and what a program printed, also until then."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, errors="replace", start_new_session=True) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)      # with what it has started
            out, errors = process.communicate()
            return None, out, errors
    return process.returncode, out, errors


def _failure(code: int | None, errors: str, limit: float) -> str:
    if code == 0:
        return ""
    if code is None:
        return f"stopped after {limit:.0f} s"
    return ("" if code == 1 else f"exit code {code}: ") + errors.strip()[-500:]      # 1: the part says why itself


def measurements(names: Sequence[str], race_folders: Sequence[str]) -> Iterator[Part]:
    """What follows the checks, the most telling first."""
    yield Part("peak")
    yield Part("torch", "products")
    yield from (Part("races", name) for name in race_folders if not name.startswith(tuple(f"{other}." for other in names)))
    yield from (Part("network", name) for name in names)
    networks = dict.fromkeys(found[0] for name in names if (found := re.match(rf"(?:{'|'.join(TORCH_NETWORKS)})_b\d+", name)))
    yield from (Part("torch", name) for name in networks)
    yield from (Part("races", name) for name in race_folders if name.startswith(tuple(f"{other}." for other in names)))


def show(part: Part, result: Mapping[str, Any], rates: Mapping[str, float], bundle: Path) -> None:
    """A part's result in a few lines."""
    if part.tool:
        print(f"compute-sanitizer {part.tool} {part.name}: {'clean' if result['clean'] else result['text']}")
    elif part.job == "check":
        print(f"{part.name}: {'WRONG' if result['wrong'] else 'exact'}, golden pair and {result['layers_compared']} layers")
        print("".join(f"  {message}\n" for message in result["wrong"]), end="")
    elif part.job == "peak":
        print(f"peak: {result['products'] * 1e-12:.1f} T int8 multiply-accumulates/s with mma; {result['bandwidth'] * 1e-9:.0f} GB/s")
    elif part.name == "products":
        print(f"torch {result['version']}: " + ", ".join(
            f"{kind} {rate * 1e-12:.1f} T multiply-accumulates/s" for kind, rate in result.items() if kind != "version"))
    elif part.job == "torch":
        print(f"torch {part.name} float16: " + ", ".join(f"{mode} {seconds * 1e3:.3f} ms" for mode, seconds in result["seconds"].items())
              + "".join(f"; {mode} FAILED: {text}" for mode, text in result["failed"].items()))
    elif part.job == "network":
        print(f"{part.name}: {result['seconds'] * 1e3:.3f} ms")
        for row in result.get("layers", []):
            print(f"  {row['seconds'] * 1e6:9.1f} us {shares(row, row['seconds'], rates)}  {row['form']} {row['node']} ({row['kernel']})")
    elif part.job == "races":
        show_races(part, result, rates, bundle)
    sys.stdout.flush()


def show_races(part: Part, result: Mapping[str, Any], rates: Mapping[str, float], bundle: Path) -> None:
    """The planned tile's time and the best one's; and the record of the winners, which `qcc compile --tuning-record` takes."""
    print(f"{part.name}: planned tiles, and what the best of those compiled gains")
    for row in result["kernels"]:
        planned = row["seconds"][0]
        best = f"{row['gain']:5.2f} x with {row['choices'][row['winner']]}"
        print(f"  {planned * 1e6:9.1f} us {shares(row, planned, rates)}  {best}  {row['label']}")
    layers = sorted((row["workload"], row["choices"][row["winner"]]) for row in result["kernels"] if len(row["choices"]) > 1)
    if layers and result["level"]:
        head = {"format": 1, "target": result["target"], "level": result["level"]}
        record = head | {"layers": [{"workload": workload, "choice": choice} for workload, choice in layers]}
        (bundle / f"{part.name}.tuning.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def shares(row: Mapping[str, Any], seconds: float, rates: Mapping[str, float]) -> str:
    """Of the products with mma, of PyTorch's int8 product, and of the bandwidth, as far as they are known."""
    found = [f"{100 * row['macs'] / seconds / rates[name]:5.1f} % of {text}" for name, text in (("products", "mma"), ("int8", "_int_mm"))
             if name in rates]
    found += [f"{100 * row['bytes'] / seconds / rates['bandwidth']:5.1f} % of bytes/s"] if "bandwidth" in rates else []
    return " ".join(found)


def summary(work: Run, names: Sequence[str]) -> None:
    """What the goals ask: networks beside PyTorch, 3x3 layers beside its int8 product, vectors by weights of 4 and 8 bits."""
    rates = work.result(Part("peak")) | work.result(Part("torch", "products"))
    for name in names:
        mine, base = work.result(Part("network", name)), re.match(r"\w+_b\d+(?=_)", name)
        reference = work.result(Part("torch", base[0])).get("seconds", {}) if base else {}
        if mine and reference:
            mode = min(reference, key=lambda key: reference[key])
            print(f"{name}: {reference[mode] / mine['seconds']:.2f} x PyTorch float16 ({mode}, {reference[mode] * 1e3:.3f} ms)")
        deep = [row for row in mine.get("layers", []) if row["form"].startswith("dense 3x3")]
        if deep and "int8" in rates:
            rate = sum(row["macs"] for row in deep) / sum(row["seconds"] for row in deep)
            print(f"{name}: its {len(deep)} layers of 3x3 run at {100 * rate / rates['int8']:.1f} % of PyTorch's int8 product")
    for label, part in work.found["parts"].items():
        vectors = {row["label"]: min(row["seconds"]) for row in part.get("kernels", []) if row["form"].startswith("vector")}
        for one, seconds in vectors.items():
            other = next((text for text in vectors if text == one.replace("8/8", "4/8") != one), None)
            if other is not None:
                print(f"{label}: {other} at {seconds / vectors[other]:.2f} x the speed of {one}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the folder that benchmarks/cuda_bundle.py made")
    parser.add_argument("--only", default="", help="artifacts whose names begin so")
    parser.add_argument("--check", action="store_true", help="compare results, measure nothing")
    parser.add_argument("--no-sanitizer", action="store_true", help="do not run compute-sanitizer")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing after so many, and stop what runs then")
    parser.add_argument("--patience", type=float, default=1.0, help="times the time limits of parts")
    parser.add_argument("--rounds", type=int, default=20, help="of every measurement")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--output", type=Path, help="the file with all results; results.json in the bundle by default")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    bundle: Path = options.bundle
    names = sorted(path.parent.name for path in bundle.glob("*/manifest.json") if path.parent.name.startswith(options.only))
    race_folders = sorted(path.parent.name for path in bundle.glob("*/races.json") if path.parent.name.startswith(options.only))
    if not names and not race_folders:
        print(f"{bundle}: no artifact of a name that begins with {options.only!r}; make them with cuda_bundle.py", file=sys.stderr)
        return 2
    work = Run(bundle, options, time.monotonic() + 60 * options.minutes)
    gpu = work.do(Part("device"))
    if not gpu:
        print(f"no GPU, so NOTHING was checked: {work.found['failed'].get('device', 'no time')}", file=sys.stderr)
        return 1
    print(f"GPU {options.device}: {gpu['gpu']}, sm_{gpu['sm']}, driver for CUDA {gpu['driver']}", flush=True)
    if gpu["emulated"]:
        print("this GPU is EMULATED: results are compared, and TIMES MEAN NOTHING")
    parts = [Part("check", name) for name in names]
    parts += [] if options.check else measurements(names, race_folders)
    sanitizer = not options.no_sanitizer and shutil.which("compute-sanitizer") is not None
    parts += [Part("check", name, tool) for tool in TOOLS for name in names] if sanitizer else []
    for part in parts:
        result = work.do(part)
        if result:
            show(part, result, work.result(Part("peak")) | work.result(Part("torch", "products")), bundle)
    return report(work, names, sanitizer)


def report(work: Run, names: Sequence[str], sanitizer: bool) -> int:
    """The summary, and the exit code."""
    print()
    summary(work, names)
    exact = [name for name in names if work.result(Part("check", name)).get("wrong") == []]
    wrong = [name for name in names if work.result(Part("check", name)).get("wrong")]
    dirty = [label for label, result in work.found["parts"].items() if result.get("clean") is False]
    print(f"{len(exact)} of {len(names)} artifacts are exact" + (f"; WRONG: {', '.join(wrong)}" if wrong else ""))
    notes = {"compute-sanitizer found something": dirty, "FAILED": list(work.found["failed"]), "no time left for": work.found["left_out"]}
    for text, labels in notes.items():
        print("".join([f"{text}: {', '.join(labels)}\n"] if labels else []), end="")
    if not sanitizer and not work.options.no_sanitizer:
        print("compute-sanitizer is not on the PATH: NOT RUN")
    return 5 if wrong or dirty else 1 if work.found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
