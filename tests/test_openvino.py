"""Exports through OpenVINO: the numbers of ONNX Runtime, for batches only, and only where vectors stay as they are."""

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="needs the extra [clip]: onnx")
pytest.importorskip("openvino", reason="needs the extra [openvino]")

import onnx
import openvino

from xsearch.encoders import openvino as room
from xsearch.encoders.onnx import OnnxEncoder
from xsearch.encoders.openvino import OpenVinoTower, open_bfloat16
from xsearch.types import Fingerprint, RGBImage

SIDE, DIM = 8, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose image tower is one matrix."""
    folder = tmp_path_factory.mktemp("export")
    pixels = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    embedding = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["n", DIM])
    matrix = np.random.default_rng(0).standard_normal((3 * SIDE * SIDE, DIM)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["pixels"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    weights = [onnx.numpy_helper.from_array(matrix, "matrix")]
    graph = onnx.helper.make_graph(nodes, "tower", [pixels], [embedding], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / "image.onnx")
    image = {"size_px": SIDE, "resize": "squash", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {
        "dim": DIM,
        "logit_scale": 1.0,
        "image": {"file": "image.onnx", **image},
        "text": {"file": "text.onnx", "tokenizer": "tokenizer.json", "max_tokens": 8},
        "fingerprint": asdict(Fingerprint("tiny", "0", "squash", "none", "float", DIM)),
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("text.onnx", "tokenizer.json"):
        (folder / name).touch()
    return folder


def images(n: int) -> list[RGBImage]:
    return list(np.random.default_rng(n).integers(0, 256, (n, 12, 16, 3), np.uint8))


class Counted:
    """A tower that counts, and may point elsewhere."""

    def __init__(self, file: Path, threads: int, *, sign: float = 1.0) -> None:
        self._tower, self._sign = OpenVinoTower(openvino.Core(), file, threads, "f32"), sign
        self.pictures = 0

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        self.pictures += len(inputs["pixels"])
        return [self._sign * found[:, ::-1] if self._sign < 0 else found for found in self._tower.run(outputs, inputs)]


def test_its_numbers_are_those_of_onnx_runtime_for_all_threads(folder: Path) -> None:
    tower = OpenVinoTower(openvino.Core(), folder / "image.onnx", 2, "f32")
    session = OnnxEncoder(folder, name="tiny")._tower("image")
    batches = [np.random.default_rng(i).standard_normal((i + 1, 3, SIDE, SIDE)).astype(np.float32) for i in range(12)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pixels: tower.run(["embedding"], {"pixels": pixels})[0], batches))
    for pixels, one in zip(batches, found, strict=True):
        np.testing.assert_allclose(one, session.run(["embedding"], {"pixels": pixels})[0], atol=1e-4)


def test_batches_go_through_it_and_single_pictures_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Counted] = []
    monkeypatch.setattr(room, "open_bfloat16", lambda file, threads: made.append(Counted(file, threads)) or made[0])
    encoder, plain = OnnxEncoder(folder, name="tiny", threads=2), OnnxEncoder(folder, name="tiny", threads=2)
    small, large = images(encoder.batch_size - 1), images(encoder.batch_size)
    vectors = encoder.encode_images(small)
    assert made == []
    reduced = encoder.encode_images(large)
    encoder.encode_images(large)
    assert [tower.pictures for tower in made] == [4 + 2 * len(large)]  # four to compare
    monkeypatch.setattr(room, "open_bfloat16", lambda file, threads: None)
    np.testing.assert_allclose(plain.encode_images(small), vectors, atol=1e-6)
    np.testing.assert_allclose(plain.encode_images(large), reduced, atol=1e-5)


def test_where_vectors_point_elsewhere_it_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Counted(folder / "image.onnx", 2, sign=-1)
    monkeypatch.setattr(room, "open_bfloat16", lambda file, threads: other)
    encoder = OnnxEncoder(folder, name="tiny", threads=2)
    encoder.encode_images(images(encoder.batch_size))
    assert other.pictures == 4


@pytest.mark.parametrize(("precision", "of"), [("int8", {}), ("float", {"name": "builtin", "version": 1})])
def test_what_is_rounded_already_is_left_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, of: dict[str, object]
) -> None:
    """Exports in 8 bits; and the built-in encoder and heads on it, which have them in their files."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | of
    config["fingerprint"]["precision"] = precision
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked: list[Path] = []
    monkeypatch.setattr(room, "open_bfloat16", lambda file, threads: asked.append(file))
    encoder = OnnxEncoder(tmp_path, name="tiny", threads=2)
    assert encoder.encode_images(images(encoder.batch_size)).shape == (encoder.batch_size, DIM)
    assert asked == []


def test_without_the_package_or_without_bfloat16_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "image.onnx"
    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert (open_bfloat16(file, 1) is not None) == has_bfloat16
    old_cpu = SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8"])
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "Core", lambda: old_cpu)
        assert open_bfloat16(file, 1) is None
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert open_bfloat16(file, 1) is None
