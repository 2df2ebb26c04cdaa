"""Calibration data from every kind of source, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from qcc.data import DataOptions, calibration_batches
from qcc.errors import DataError
from qcc.ir.types import F32, I64, Array, TensorType

VECTOR = {"x": TensorType(F32, (1, 4))}
PAIR = {"x": TensorType(F32, (1, 4)), "n": TensorType(I64, (1,))}
FIRST = {"image": TensorType(F32, (1, 3, 8, 6))}
LAST = {"image": TensorType(F32, (1, 8, 6, 3))}
PIXELS = DataOptions((10.0, 20.0, 30.0), (2.0, 4.0, 5.0))


def stack(source: Any, inputs: dict[str, TensorType] = VECTOR, options: DataOptions | None = None) -> Array:
    """All batches of a single input, one above the other; read twice, to see that they come again."""
    batches = calibration_batches(source, inputs, options)
    first, second = ([batch[next(iter(inputs))] for batch in batches] for _ in range(2))
    assert len(first) == len(second)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(a.flags.c_contiguous for a in first)
    return np.concatenate(first)


@pytest.fixture
def samples(rng: np.random.Generator) -> Array:
    return rng.standard_normal((5, 4)).astype(np.float32)


class Reader:
    """An object as quantizers of other tools take it."""

    def __init__(self, samples: Array) -> None:
        self.samples, self.rest = samples, iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        sample = next(self.rest, None)
        return None if sample is None else {"x": sample[None]}


class Rewinding(Reader):
    def rewind(self) -> None:
        self.rest = iter(self.samples)


def test_arrays_and_iterables(samples: Array) -> None:
    sources: list[Any] = [
        samples, {"x": samples}, samples[:, None], list(samples), [s[None] for s in samples], [(s,) for s in samples],
        [{"x": s} for s in samples], [samples[:2], samples[2:]], lambda: list(samples), lambda: iter(samples), samples.astype(np.float64),
        Reader(samples), Rewinding(samples), iter(samples), (s for s in samples),
    ]
    for source in sources:
        assert np.array_equal(stack(source), samples)


def test_generators_are_read_once_and_kept(samples: Array) -> None:
    def once() -> Iterator[Array]:
        yield from samples

    generator = once()
    batches = calibration_batches(generator, VECTOR)
    assert next(iter(batches))["x"].shape == (1, 4)
    assert next(generator, None) is None
    pairs = itertools.zip_longest(batches, batches)
    assert sum(np.array_equal(a["x"], b["x"]) for a, b in pairs) == 5


def test_stacks_are_split_into_the_models_batches(samples: Array) -> None:
    inputs = {"x": TensorType(F32, (2, 4))}
    assert [batch["x"].shape for batch in calibration_batches(samples[:4], inputs)] == [(2, 4)] * 2
    with pytest.raises(DataError, match="expected a multiple of the model's batch of 2 samples, got 5"):
        stack(samples, inputs)


def test_several_inputs(samples: Array) -> None:
    numbers = np.arange(5)
    for source in ({"x": samples, "n": numbers}, [(samples, numbers)], [{"x": s, "n": n} for s, n in zip(samples, numbers, strict=True)]):
        batches = list(calibration_batches(source, PAIR))
        assert [int(batch["n"][0]) for batch in batches] == [0, 1, 2, 3, 4]
        assert batches[0]["n"].dtype == np.int64
    with pytest.raises(DataError, match=r"expected as many samples for every input, got \{'x': 5, 'n': 4\}"):
        list(calibration_batches({"x": samples, "n": numbers[:4]}, PAIR))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], r"empty; expected at least one sample for 'x' f32\[1, 4\]"),
        (np.zeros((0, 4), np.float32), "empty"),
        (iter(()), "empty"),
        (5, "expected a path, array, dict, iterable"),
        (lambda: None, "the function returned NoneType"),
        ({"y": np.zeros((1, 4))}, r"expected arrays for the inputs \['x'\], got \['y'\]"),
        ([(np.zeros((1, 4)), np.zeros(1))], r"batch 0: expected 1 arrays \(x\), got 2; give the inputs only, no labels"),
        (np.zeros((2, 5), np.float32), r"input 'x': expected the shape \[1, 4\], or a stack \[N, 4\] of samples, got \[2, 5\]"),
        (np.zeros((2, 4), np.int32), "input 'x': expected f32, got int32; convert the array$"),
        (np.zeros((2, 4), np.uint8), "got uint8; convert the array, or give --mean and --std"),
        (np.zeros((2, 4), np.complex64), "got complex64"),
        ([np.zeros((1, 4)), np.array([[0, 1, np.nan, 3]])], r"batch 1.*expected finite numbers, got nan at \[0, 2\]"),
        (np.full((1, 4), 1e300), "expected finite numbers, got inf"),
        ([{"x": [[0, 1], [2]]}], "is not an array of numbers"),
    ],
)
def test_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(calibration_batches(source, VECTOR))


def test_integers_must_fit() -> None:
    inputs = {"n": TensorType(I64, (2,))}
    assert stack(np.array([1, 2], np.uint8), inputs).tolist() == [1, 2]
    with pytest.raises(DataError, match="expected values of i64"):
        stack(np.array([1, 2**63], np.uint64), inputs)
    with pytest.raises(DataError, match="expected i64, got float64"):
        stack(np.array([1.0, 2.0]), inputs)


def test_array_files(tmp_path: Path, samples: Array) -> None:
    np.save(tmp_path / "a.npy", samples)
    np.savez(tmp_path / "b.npz", x=samples, other=np.zeros(3))
    np.savez(tmp_path / "c.npz", images=samples, labels=np.zeros(5))
    np.savez(tmp_path / "d.npz", anything=samples)
    for name in "a.npy", "b.npz", "c.npz", "d.npz":
        assert np.array_equal(stack(tmp_path / name), samples)
        assert np.array_equal(stack(str(tmp_path / name)), samples)
    np.savez(tmp_path / "e.npz", y=samples, z=samples)
    with pytest.raises(DataError, match=r"e\.npz: expected an array for each of the inputs \['x'\], got arrays \['y', 'z'\]"):
        stack(tmp_path / "e.npz")


def test_folders_of_arrays(tmp_path: Path, samples: Array) -> None:
    folder = tmp_path / "data"
    (folder / "part").mkdir(parents=True)
    for number, sample in enumerate(samples):
        np.save(folder / "part" / f"{number}.npy", sample)
    (folder / "README.txt").write_text("not data")
    assert np.array_equal(stack(folder), samples)
    np.savez(folder / "more.npz", x=samples)
    with pytest.raises(DataError, match=r"data: expected files of one kind, got 5 x npy, 1 x npz"):
        stack(folder)


def test_onnx_test_data(tmp_path: Path, samples: Array) -> None:
    for number in range(2):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for index, array in enumerate((samples[number:number + 1], np.array([number]))):
            (folder / f"input_{index}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    batches = list(calibration_batches(tmp_path, PAIR))
    assert [int(batch["n"][0]) for batch in batches] == [0, 1]
    assert np.array_equal(batches[1]["x"], samples[1:2])
    assert len(list(calibration_batches(tmp_path / "test_data_set_0", PAIR))) == 1
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"input_0\.pb: expected a tensor in ONNX's protobuf form"):
        list(calibration_batches(tmp_path, PAIR))
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(onnx.TensorProto().SerializeToString())
    with pytest.raises(DataError, match="no element type"):
        list(calibration_batches(tmp_path, PAIR))


def test_damaged_and_missing_files(tmp_path: Path, samples: Array) -> None:
    with pytest.raises(DataError, match=r"none\.npy: no such file or folder"):
        stack(tmp_path / "none.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder holds no data"):
        stack(tmp_path / "empty")
    np.savez(tmp_path / "whole.npz", x=samples)
    for name, content in {
        "half.npz": (tmp_path / "whole.npz").read_bytes()[:150], "text.npy": b"hello", "text.npz": b"hello", "nothing.npy": b"",
        "picture.png": b"\x89PNG\r\n\x1a\nbroken",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: "):
            stack(tmp_path / name)
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"data\.csv: expected \.npy, \.npz, \.pb, a picture"):
        stack(tmp_path / "data.csv")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects\.npy: cannot be read: .*"):
        stack(tmp_path / "objects.npy")


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    (folder / ".thumbs").mkdir()
    Image.fromarray(rng.integers(0, 256, (8, 6, 3), np.uint8)).save(folder / "exact.png")
    Image.fromarray(rng.integers(0, 256, (40, 20, 3), np.uint8)).save(folder / "cats" / "tall.jpg")
    Image.fromarray(rng.integers(0, 256, (9, 30), np.uint8)).save(folder / "cats" / "wide_gray.PNG")
    Image.fromarray(rng.integers(0, 256, (9, 30), np.uint8)).save(folder / ".thumbs" / "hidden.png")
    return folder


def test_pictures(pictures: Path) -> None:
    first, last = stack(pictures, FIRST, PIXELS), stack(pictures, LAST, PIXELS)
    assert first.shape == (3, 3, 8, 6)
    assert np.array_equal(first.transpose(0, 2, 3, 1), last)
    exact = np.asarray(Image.open(pictures / "exact.png"))
    assert np.allclose(last[2] * [2, 4, 5] + [10, 20, 30], exact, atol=1e-4)
    swapped = stack(pictures / "exact.png", LAST, DataOptions((0.0,), (1.0,), color="BGR"))
    assert np.array_equal(swapped[0], exact[..., ::-1])
    with pytest.raises(DataError, match="for pictures give --mean and --std"):
        stack(pictures, FIRST)
    with pytest.raises(DataError, match="a picture, but the model does not have a single input of rank 4"):
        stack(pictures, VECTOR, PIXELS)


def test_pictures_are_cut_in_the_middle() -> None:
    wide = np.zeros((1, 8, 18, 3), np.uint8)
    wide[:, :, 6:12] = 200
    options = DataOptions((0.0,), (1.0,))
    assert (stack(wide, LAST, options) == 200).all()
    assert (stack(wide[0], FIRST, options) == 200).all()


def test_stacks_of_pixels(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (4, 8, 6, 3), np.uint8)
    for data, inputs in ((pixels, FIRST), (pixels, LAST), (pixels.transpose(0, 3, 1, 2), FIRST)):
        got = stack(data, inputs, PIXELS)
        got = got if inputs is LAST else got.transpose(0, 2, 3, 1)
        assert np.allclose(got, (pixels - np.array([10.0, 20, 30])) / [2, 4, 5], atol=1e-5)
    assert stack(np.full((2, 4), 255, np.uint8), VECTOR, DataOptions(std=(255.0,))).tolist() == [[1.0] * 4] * 2


def test_layouts_and_channels() -> None:
    unclear = {"image": TensorType(F32, (1, 3, 8, 3))}
    pixels = np.zeros((3, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r"channels may be first or last; say which with --layout"):
        stack(np.zeros((9, 9, 3), np.uint8), unclear, DataOptions(std=(1.0,)))
    assert stack(pixels, unclear, DataOptions(std=(1.0,), layout="NHWC")).shape == (1, 3, 8, 3)
    with pytest.raises(DataError, match="2 numbers of mean for 3 channels"):
        stack(pixels, {"image": TensorType(F32, (1, 3, 8, 8))}, DataOptions((1.0, 2.0), (1.0,)))
    with pytest.raises(DataError, match="give one number for mean and for std"):
        stack(np.zeros((1, 4), np.uint8), VECTOR, PIXELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": (0.229, 0.224, 0.225)}, "multiply both by 255"),
        ({"std": (0.0,)}, "deviations above zero"),
        ({"mean": (float("nan"),)}, "expected finite numbers"),
        ({"layout": "CHW"}, "expected NCHW or NHWC"),
        ({"color": "GRB"}, "RGB or BGR"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataOptions(**options)


def test_digest_does_not_depend_on_order(samples: Array) -> None:
    digest = calibration_batches(samples, VECTOR).digest
    assert len(digest) == 64
    assert calibration_batches(samples[::-1], VECTOR).digest == digest
    assert calibration_batches(iter(samples.astype(np.float64)), VECTOR).digest == digest
    assert calibration_batches(samples[:4], VECTOR).digest != digest
    assert calibration_batches(-samples, VECTOR).digest != digest
