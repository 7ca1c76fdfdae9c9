"""What the scripts beside this file compute: `pytest training/builtin`. No data and no network."""

import copy
import gzip
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from draws import draw_texts
from gather import COPY, Blocks, _differ, _thumbnails
from graphs import _places, _store, load_rounded, read_image_tower, store_unsigned, write_tower
from halves import beside, halves
from learner import Learner
from losses import LOGIT_SCALE, choice_loss, symmetric_loss
from measures import pointing, recalls, top1
from names import PROMPTS, class_texts, other_class_texts, prompted
from onnx import TensorProto, helper, numpy_helper
from pictures import (
    CORNERS,
    FROZEN_OUTPUT,
    OF_NAMED,
    VIEWS,
    FrozenStages,
    Pictures,
    Said,
    cache_views,
    cropped,
    is_name,
    mean_of,
    pixels,
    sketched,
)
from PIL import Image
from rounding import enlarge, round_convolutions, side_of
from smoothing import divisors
from styles import STYLES, Style, styled
from texts import TextDevelopment, TextRecipe, TextRun, see, style_loss
from torch import nn
from towers import FixedTexts, FrozenDepthwise, ImageTower
from train import GATHERED, Data, Recipe, Run

from xsearch.encoders import get_encoder
from xsearch.encoders.crops import CroppingEncoder
from xsearch.encoders.onnx import BUILTIN_DIR
from xsearch.types import Embeddings

SIDE_PX, SIDE = 256, 8
OUTPUTS = ["embedding", "patches", "patch_weights"]


@pytest.fixture(scope="module")
def image_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tower of the package in float32."""
    out = tmp_path_factory.mktemp("float32") / "image.onnx"
    unround(BUILTIN_DIR / "image.onnx", out)
    return out


@pytest.fixture(scope="module")
def tower(image_onnx: Path) -> ImageTower:
    return read_image_tower(image_onnx, dropout=0.3).eval()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), np.uint8)
    return [Image.fromarray(one).resize((320, 240), Image.Resampling.BICUBIC) for one in noise]


def as_file(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def unround(image_onnx: Path, out: Path) -> None:
    """Write a rounded tower in float32: with the weights that it was rounded to, and activations that are not."""
    model = onnx.load(image_onnx)
    graph = model.graph
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    given = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    new = {}
    for node in [one for one in graph.node if one.op_type == "DequantizeLinear"]:
        taken, scale, (result,) = node.input[0], held[node.input[1]], node.output
        if taken in held:
            weights = held[taken] * scale.reshape(-1, *[1] * (held[taken].ndim - 1))
            new[result] = taken.removesuffix("_quantized")
            graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), new[result]))
        elif held[node.input[2]] == 0:  # only what is never negative has this zero: it was cut off by being rounded
            new[result] = f"{given[taken]}_relu6"
            clip = helper.make_node(
                "Clip", [given[taken], "relu6_least", "relu6_most"], [new[result]], name=new[result]
            )
            graph.node.insert(list(graph.node).index(node), clip)
        else:
            new[result] = given[taken]
        graph.node.remove(node)
    for node in [one for one in graph.node if one.op_type == "QuantizeLinear"]:
        graph.node.remove(node)
    ends = (("relu6_least", 0), ("relu6_most", 6))
    graph.initializer.extend(numpy_helper.from_array(np.float32(end), name) for name, end in ends)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    onnx.save(model, out)


def test_frozen_stages_and_tower_are_the_graph(
    tower: ImageTower, image_onnx: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    maps = FrozenStages(image_onnx, tmp_path).maps(pictures)
    with torch.no_grad():
        found = tower(torch.from_numpy(maps.astype(np.float32)))
    expected = onnxruntime.InferenceSession(image_onnx).run(OUTPUTS, {"pixels": pixels(pictures, SIDE_PX)})
    for one, other in zip(found, expected, strict=False):
        np.testing.assert_allclose(one.numpy(), other, atol=2e-3)  # maps are kept as float16


def test_the_weight_of_the_class_texts_can_be_set(tower: ImageTower) -> None:
    before = copy.deepcopy(tower)
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(2, 208, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tower.weigh_class_part(1.5)
        torch.testing.assert_close(tower.class_part(logits), 1.5 * before.class_part(logits))
        (weighed, patches, *_), (vectors, same_patches, *_) = tower(maps), before(maps)
        tower.weigh_class_part(1 / 1.5)
        torch.testing.assert_close(tower(maps)[0], vectors)
    torch.testing.assert_close(patches, same_patches)
    own = nn.functional.normalize(before.class_part(before(maps)[3]), dim=1)
    assert ((weighed * own).sum(dim=1) > (vectors * own).sum(dim=1)).all()


def test_every_view_is_kept_as_the_graph_sees_it(image_onnx: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    """Both cores make views, and the later ones only of pictures with captions, which come first."""
    files = [as_file(picture, "png") for picture in pictures]
    texts = [["a dog", "a dog on grass"], ["somebody cooks"], ["a photo of a dog"]]
    assert [is_name(one) for one in texts] == [False, False, True]
    shown = Pictures(files, texts, ["set"] * 3)
    assert shown.captioned == 2
    stages = FrozenStages(image_onnx, tmp_path)
    views = cache_views(list(VIEWS), shown, stages, tmp_path, None)
    assert [file.name for file in views] == [f"{view}.maps.npy" for view in VIEWS]
    assert [len(np.load(file)) for file in views] == [3 if view in OF_NAMED else 2 for view in VIEWS]
    expected = stages.run(pictures)
    for kind, array in zip(("maps", "logits", "vectors"), expected, strict=True):
        np.testing.assert_allclose(np.load(tmp_path / f"plain.{kind}.npy"), array, atol=0.02)  # kept as float16
    written = [file.stat().st_mtime_ns for file in views]
    assert [file.stat().st_mtime_ns for file in cache_views(list(VIEWS), shown, stages, tmp_path, None)] == written


def test_weights_written_back_are_those_of_the_tower(
    image_onnx: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    written = tmp_path / "image.onnx"
    changed = read_image_tower(image_onnx, dropout=0)
    with torch.no_grad():
        for parameter in (changed._blocks[0]._expand_conv.weight, changed.w1.weight, changed.cp.bias):
            parameter.mul_(1.25)
    write_tower(changed, image_onnx, written)
    read = read_image_tower(written, dropout=0).state_dict()
    for name, weights in changed.state_dict().items():
        torch.testing.assert_close(read[name], weights, atol=1e-4, rtol=1e-3)  # float16
    before, after = (
        onnxruntime.InferenceSession(file).run(OUTPUTS[:1], {"pixels": pixels(pictures, SIDE_PX)})[0]
        for file in (image_onnx, written)
    )
    assert (before * after).sum(axis=1).max() < 0.999


def test_every_weight_of_the_tower_has_its_place(tower: ImageTower, image_onnx: Path) -> None:
    places = _places(onnx.load(image_onnx).graph)
    assert {name: len(places[name]) for name in tower.state_dict()} == dict.fromkeys(tower.state_dict(), 1)


def test_int8_has_a_scale_for_each_column() -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(64, 3)) * [1, 10, 0.01]).astype(np.float32)
    held = {
        name: numpy_helper.from_array(array, name)
        for name, array in {
            "w_quantized": np.zeros((64, 3), np.int8),
            "w_scale": np.float32(1).reshape(()),
            "w_zero_point": np.int8(0).reshape(()),
        }.items()
    }
    _store(held, "w_quantized", matrix)
    quantized, scale, zero = (numpy_helper.to_array(held[name]) for name in held)
    np.testing.assert_allclose(scale, np.abs(matrix).max(axis=0) / 127, rtol=1e-6)
    np.testing.assert_array_equal(zero, np.zeros(3, np.int8))
    assert np.all(np.abs(quantized * scale - matrix) <= scale / 2 * 1.001)
    with pytest.raises(ValueError, match="has the shape"):
        _store(held, "w_quantized", matrix.T)


def test_what_is_rounded_is_divided_first_and_peaks_cost_less(tmp_path: Path) -> None:
    """Two layers take in the same, of which one channel is sixty times the others."""
    torch.manual_seed(0)
    taken = torch.randn(40, 16) * torch.tensor([60.0] + [1.0] * 15)
    layers = nn.ModuleDict({name: nn.Linear(16, 8) for name in ("query", "key")})
    tower = nn.ModuleDict({"attention": nn.ModuleDict({"self": layers})})
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["x_quantized", "x_scale", "x_zero"])]
    initializers = []
    for name in layers:
        matrix = np.zeros((16, 8), np.int8)
        initializers += [numpy_helper.from_array(matrix, f"{name}_quantized")]
        initializers += [numpy_helper.from_array(np.float32(1).reshape(()), f"{name}_scale")]
        initializers += [numpy_helper.from_array(np.int8(0).reshape(()), f"{name}_zero_point")]
        initializers += [numpy_helper.from_array(np.zeros(8, np.float32), f"attention.self.{name}.bias")]
        nodes += [
            helper.make_node(
                "MatMulInteger",
                ["x_quantized", f"{name}_quantized", "x_zero", f"{name}_zero_point"],
                [f"{name}.integer"],
                name=f"/attention/self/{name}/MatMul_quant",
            ),
            helper.make_node("Cast", [f"{name}.integer"], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x_scale", f"{name}_scale"], [f"{name}.step"]),
            helper.make_node("Mul", [f"{name}.float", f"{name}.step"], [f"{name}.product"]),
            helper.make_node("Add", [f"{name}.product", f"attention.self.{name}.bias"], [name]),
        ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in layers]
    graph = helper.make_graph(nodes, "layers", [x], results, initializers)
    start, out = tmp_path / "start.onnx", tmp_path / "out.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), start)

    def error() -> float:
        found = onnxruntime.InferenceSession(out).run(list(layers), {"x": taken.numpy()})
        with torch.no_grad():
            return float(
                np.mean(
                    [np.abs(f - layer(taken).numpy()).mean() for f, layer in zip(found, layers.values(), strict=True)]
                )
            )

    write_tower(tower, start, out)
    rounded = error()
    found = divisors(tower, lambda: [layer(taken) for layer in layers.values()])
    torch.testing.assert_close(found["attention.self.query"], found["attention.self.key"])
    write_tower(tower, start, out, found)
    assert [node.op_type for node in onnx.load(out).graph.node][:2] == ["Mul", "DynamicQuantizeLinear"]
    assert error() < rounded / 3

    # What was rounded can be read again, and learn on.
    store_unsigned(out)
    read = copy.deepcopy(tower)
    for parameter in read.parameters():
        nn.init.zeros_(parameter)
    load_rounded(read, start, out)
    for name, weights in tower.state_dict().items():
        assert (read.state_dict()[name] - weights).norm() < 0.05 * weights.norm()


def test_a_rounded_tower_is_nearly_the_same(image_onnx: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    """All of it; or its frozen stages, which are then those of all of it."""
    whole, stages = tmp_path / "whole.onnx", tmp_path / "stages.onnx"
    round_convolutions(image_onnx, pictures, whole)
    round_convolutions(image_onnx, pictures, stages, last=FROZEN_OUTPUT)
    vectors = [FrozenStages(file, tmp_path).run(pictures) for file in (image_onnx, whole, stages)]
    assert (vectors[0][2] * vectors[1][2]).sum(axis=1).min() > 0.98
    np.testing.assert_array_equal(vectors[1][0], vectors[2][0])
    kinds = [[node.op_type for node in onnx.load(file).graph.node] for file in (whole, stages)]
    assert [one.count("Conv") for one in kinds] == [64, 64]
    assert kinds[0].count("QuantizeLinear") > kinds[1].count("QuantizeLinear") > 30
    assert whole.stat().st_size < stages.stat().st_size < image_onnx.stat().st_size


def test_a_tower_learns_as_it_computes_when_it_is_rounded(
    image_onnx: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """Of weights that are not rounded yet, those of the package times something near 1."""
    start, whole = tmp_path / "start.onnx", tmp_path / "whole.onnx"
    tower = read_image_tower(image_onnx, dropout=0).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for block in tower._blocks:
            for one in (block._expand_conv, block._project_conv):
                one.weight.mul_(1 + 0.1 * torch.randn_like(one.weight))
    write_tower(tower, image_onnx, start)
    round_convolutions(start, pictures, whole)
    maps, _, expected = FrozenStages(whole, tmp_path).run(pictures)
    with torch.no_grad():
        exact = tower(torch.from_numpy(maps))[0].numpy()
    tower.round()
    found = tower(torch.from_numpy(maps))[0]
    far = [1 - (one * expected).sum(axis=1).mean() for one in (exact, found.detach().numpy())]
    assert far[1] < far[0]
    found.sum().backward()
    for block in tower._blocks:
        for one in (block._expand_conv, block._project_conv):
            assert one.weight.grad is not None
            assert one.weight.grad.abs().sum() > 0


def test_a_channel_without_weights_keeps_its_bias(pictures: list[Image.Image], tmp_path: Path) -> None:
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0] = 0.5
    nodes = [
        helper.make_node("Conv", ["pixels", "weights", "bias"], ["wide"], name="/wide/Conv"),
        helper.make_node("Clip", ["wide", "least", "most"], ["kept"], name="/clip/Clip"),
        helper.make_node("Neg", ["kept"], ["embedding"], name="/Neg"),
    ]
    bias = numpy_helper.from_array(np.array([0.25, 5.0], np.float32), "bias")
    ends = [numpy_helper.from_array(np.float32(end), name) for name, end in (("least", 0), ("most", 6))]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 32, 32])
    result = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 2, 32, 32])
    graph = helper.make_graph(nodes, "g", [given], [result], [numpy_helper.from_array(weights, "weights"), bias, *ends])
    start, out, back = (tmp_path / f"{name}.onnx" for name in ("start", "out", "back"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), start)
    round_convolutions(start, pictures, out)
    unround(out, back)
    shown = {"pixels": pixels(pictures, 32)}
    exact, *others = (onnxruntime.InferenceSession(file).run(None, shown)[0] for file in (start, out, back))
    assert exact[:, 1].min() == exact[:, 1].max() == -5
    for found in others:
        np.testing.assert_allclose(found, exact, atol=6 / 255)


def test_a_tower_for_larger_pictures_has_more_patches(
    image_onnx: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    larger = tmp_path / "larger.onnx"
    enlarge(image_onnx, SIDE_PX + 32, larger)
    assert (side_of(image_onnx), side_of(larger)) == (SIDE_PX, SIDE_PX + 32)
    session = onnxruntime.InferenceSession(larger)
    found, patches, weights = session.run(OUTPUTS, {"pixels": pixels(pictures, SIDE_PX + 32)})
    assert patches.shape == (*weights.shape, 384) == (3, (SIDE + 1) ** 2, 384)
    before = onnxruntime.InferenceSession(image_onnx).run(OUTPUTS[:1], {"pixels": pixels(pictures, SIDE_PX)})[0]
    assert (found * before).sum(axis=1).min() > 0.7


def test_unsigned_weights_mean_the_same(tmp_path: Path) -> None:
    weights = np.array([[-128, 127], [0, -1]], np.int8)
    held = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.int8(3).reshape(()), "zero")]
    given = helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 2])
    result = helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 2])
    none = numpy_helper.from_array(np.uint8(0).reshape(()), "none")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "none", "zero"], ["y"])], "g", [given], [result], [*held, none]
    )
    file = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    x = np.array([[255, 255], [1, 0]], np.uint8)
    store_unsigned(file)
    store_unsigned(file)
    assert {one.name: one.data_type for one in onnx.load(file).graph.initializer} == dict.fromkeys(
        ("w", "zero", "none"), TensorProto.UINT8
    )
    (found,) = onnxruntime.InferenceSession(file).run(None, {"x": x})
    np.testing.assert_array_equal(found, x.astype(int) @ (weights.astype(int) - 3))


def test_fixed_texts_are_those_of_the_package() -> None:
    texts = ["a dog", "two dogs play on a beach", "a dog"]
    fixed = FixedTexts(get_encoder())
    np.testing.assert_allclose(fixed.encode(texts).numpy(), get_encoder().encode_texts(texts), atol=1e-6)
    texts = ["a cat", *texts]  # one more than are known
    np.testing.assert_allclose(fixed.encode(texts).numpy(), get_encoder().encode_texts(texts), atol=1e-6)
    assert list(fixed.parameters()) == []


def test_the_gradient_of_a_frozen_depthwise_convolution_is_that_of_torch() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 6, 5, padding=2, groups=6).double()
    given = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    onward = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    one, other = given.clone().requires_grad_(), given.clone().requires_grad_()
    expected = convolution(one)
    found = FrozenDepthwise.apply(other, convolution.weight.detach(), convolution.bias.detach())
    torch.testing.assert_close(found, expected)
    expected.backward(onward)
    found.backward(onward)
    torch.testing.assert_close(other.grad, one.grad)


def test_recalls_are_those_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    pictures, owner = rng.normal(size=(20, 4)).astype(np.float32), np.repeat(np.arange(20), 2)
    texts = rng.normal(size=(40, 4)).astype(np.float32)
    cosines = texts @ pictures.T
    found = recalls(pictures, texts, owner)
    for k in (1, 5, 10):
        of_texts = [owner[i] in np.argsort(-cosines[i])[:k] for i in range(40)]
        of_pictures = [bool({2 * j, 2 * j + 1} & {*np.argsort(-cosines[:, j])[:k].tolist()}) for j in range(20)]
        assert found[f"t2i@{k}"] == pytest.approx(np.mean(of_texts))
        assert found[f"i2t@{k}"] == pytest.approx(np.mean(of_pictures))
    assert top1(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 0, 2]], [1, 0, 0]) == pytest.approx(2 / 3)


def test_patches_point_to_the_half_of_their_caption() -> None:
    left, right = np.eye(2, dtype=np.float32)
    said = np.array([[left, right]])
    for side in (7, 8):
        halves = np.array([[left] * (side - side // 2) + [right] * (side // 2)] * side).reshape(1, side**2, 2)
        assert pointing(halves, said) == (1.0, 1.0)
        assert pointing(halves, said[:, ::-1]) == (0.0, 0.0)
        assert pointing(np.broadcast_to(left, (1, side**2, 2)), said) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("side", "columns", "first", "rest"),
    [(7, 3, [1, 3, 5], [10, 12, 14, 16]), (7, 4, [0, 2, 4, 6], [11, 13, 15]), (8, 4, [0, 2, 4, 6], [10, 12, 14, 16])],
)
@pytest.mark.parametrize("above", [False, True])
def test_halves_are_of_the_picture_that_stands_there(
    side: int, columns: int, first: list[int], rest: list[int], above: bool
) -> None:
    left = np.broadcast_to(np.arange(side, dtype=np.float16), (2, 5, side, side))
    both = beside(left, left + np.float16(10), columns)
    np.testing.assert_array_equal(both, np.broadcast_to(np.array(first + rest), (2, 5, side, side)))
    patches = torch.from_numpy((both.swapaxes(2, 3) if above else both).astype(np.float32)).flatten(2).transpose(1, 2)
    means = [np.mean(first)] * 2 + [np.mean(rest)] * 2
    np.testing.assert_array_equal(halves(patches, columns, above=above)[:, 0], means)


def test_halves_that_tell_their_own_text_cost_nothing() -> None:
    own = torch.eye(4)
    assert symmetric_loss(50 * own, own).item() == pytest.approx(0, abs=1e-6)
    assert symmetric_loss(torch.zeros(4, 4), own).item() == pytest.approx(np.log(4))
    assert symmetric_loss(50 * own.roll(2, 0), own).item() == pytest.approx(50)  # the other half's
    shared = torch.tensor([[1.0, 1], [1, 1]])  # both halves have the same text
    assert symmetric_loss(torch.zeros(2, 2), shared).item() == pytest.approx(np.log(2))


def test_texts_of_a_picture_are_its_own_and_no_other_text_is() -> None:
    texts = [["a dog", "a dog runs", "two ears"], ["a photo of a cat"], ["A photo of a cat"], ["a dog", "grass"]]
    for seed in range(20):
        drawn, same = draw_texts(texts, 2, random.Random(seed))
        assert len(drawn) == 6
        assert all(text in own for text, own in zip(drawn, texts, strict=False))  # a text of each comes first
        assert len({drawn[i] for i in (0, 4)}) == len({drawn[i] for i in (3, 5)}) == 2
        for i, own in enumerate(texts):
            lower = {text.lower() for text in own}
            shown = {drawn[j].lower() for j in range(6) if same[i, j]}
            assert shown <= lower
            assert shown >= {drawn[i].lower()}
        assert same[1].tolist() == same[2].tolist() == [0, 1, 1, 0, 0, 0]
        assert same[0].sum() == (3 if "a dog" in (drawn[0], drawn[4]) and "a dog" in (drawn[3], drawn[5]) else 2)


def test_what_is_held_out_or_came_later_is_shown_only_where_a_recipe_says_so() -> None:
    sets = ["flickr8k", *sorted(GATHERED), "caltech101"]
    pictures = Pictures([b""] * 5, [["a dog"]] * 5, sets)
    data = Data(pictures, [False, False, False, False, True], pictures, [])
    assert data.shown(Recipe()) == [0, 4]
    assert data.shown(Recipe(gathered=True)) == [0, 1, 2, 3, 4]
    assert data.shown(Recipe(gathered=True, hold_out=True)) == [0, 1, 2, 3]


def test_more_texts_than_pictures() -> None:
    own = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    assert symmetric_loss(torch.zeros(2, 3), own).item() == pytest.approx((np.log(3) + np.log(2)) / 2)
    assert symmetric_loss(50 * own, own).item() == pytest.approx(np.log(2) / 4)  # two texts share one picture's rows


def test_what_has_no_choice_of_its_own_costs_nothing() -> None:
    own = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    assert choice_loss(torch.zeros(2, 3), own).item() == pytest.approx(np.log(3))


def test_an_image_tower_learns_texts_and_keeps_what_it_told(image_onnx: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), np.uint8)
    files = [as_file(Image.fromarray(one), "png") for one in noise]
    every = Pictures(files, [["a dog", "it runs"], ["a cat"], ["a red car"], ["two birds"]] * 2, ["flickr8k"] * 8)
    maps = cache_views(["plain"], every, FrozenStages(image_onnx, tmp_path), tmp_path, None)
    recipe = Recipe(epochs=8, batch=8, group=2, captions=2, names=8, joined=2, warm_up_steps=2, rate_heads=2e-3)
    image, texts = read_image_tower(image_onnx, recipe.dropout), FixedTexts(get_encoder("builtin"))
    torch.manual_seed(0)
    run = Run(recipe, Data(every, [False] * 8, every, []), maps, image, texts, LOGIT_SCALE, None)
    before, losses = run.learner.weights(), [run._epoch() for _ in range(recipe.epochs)]
    assert losses[-1] < losses[0] - 0.1
    learned = {name for name, one in run.learner.weights().items() if not torch.equal(one, before[name])}
    assert learned >= {"image._blocks.20._project_conv.weight", "image.cp.weight", "logit_scale"}
    assert not any("_depthwise" in name for name in learned)
    run.mix(before, run.learner.average, 0.5)
    mixed, end = run.learner.weights(), run.learner.average
    torch.testing.assert_close(mixed["image.w1.weight"], (before["image.w1.weight"] + end["image.w1.weight"]) / 2)


def test_a_learner_keeps_the_mean_of_its_weights() -> None:
    weight = nn.Parameter(torch.tensor([4.0]))
    learner = Learner(
        {"weight": weight},
        [{"params": [weight], "lr": 0.5}],
        steps=40,
        warm_up_steps=4,
        weight_decay=0.0,
        average=0.99,
    )
    mean = weight.item()
    for step in range(1, 41):
        learner.step((weight**2).sum())
        mean += (weight.item() - mean) * (1 - step / (step + 10))
    assert abs(weight.item()) < 1
    assert learner.average["weight"].item() == pytest.approx(mean)
    now = weight.item()
    with learner.averaged():
        assert weight.item() == pytest.approx(mean)
    assert weight.item() == now != pytest.approx(mean)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.views[0])
def test_a_text_tells_what_is_shown_and_how(style: Style) -> None:
    for seed in range(20):
        told = styled("A dog runs.", style, random.Random(seed))
        assert "a dog runs" in told
        assert told in {said.format("a dog runs") for said in style.said}
        assert styled("a photo of a cat", style, random.Random(seed)) in {said.format("a cat") for said in style.said}
        assert "USA" in styled("USA", style, random.Random(seed))
    assert not set(style.unseen) & {*style.alone, *style.said}


def test_styles_that_are_told_cost_nothing() -> None:
    """Two pictures in two styles, of which the last two dimensions tell the style."""
    pictures = torch.tensor([[[1.0, 0, 1, 0], [0, 1, 1, 0]], [[1.0, 0, 0, 1], [0, 1, 0, 1]]])
    alone = torch.tensor([[[0.0, 0, 1, 0]], [[0.0, 0, 0, 1]]])
    scale = torch.tensor(50.0)
    assert style_loss(pictures, pictures, alone, scale).item() == pytest.approx(0, abs=1e-6)
    blind = pictures * torch.tensor([1.0, 1, 0, 0])
    assert style_loss(pictures, blind, 0 * alone, scale).item() == pytest.approx(2 * np.log(2))
    assert style_loss(pictures, pictures, alone.flip(0), scale).item() == pytest.approx(50)


class Words(nn.Module):
    """A text tower whose texts are the sums of their words."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = nn.EmbeddingBag(512, 11, mode="sum")
        self.l = nn.Linear(11, 11)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        ids = [[sum(map(ord, word)) % 512 for word in text.lower().split()] for text in texts]
        starts = np.cumsum([0, *map(len, ids)])[:-1]
        found = self.bert(torch.tensor([one for own in ids for one in own]), torch.from_numpy(starts))
        return nn.functional.normalize(found + self.l(found), dim=1)


def test_texts_learn_how_pictures_are_made(tmp_path: Path) -> None:
    """Vectors of eight things, with a part for the style, which texts do not tell at first."""
    torch.manual_seed(0)
    things = np.eye(11)[np.random.default_rng(0).integers(0, 8, 64)]
    names = ("dog", "cat", "car", "boat", "tree", "cup", "bird", "hat")
    captions = [[f"a {names[one.argmax()]} here"] for one in things]
    seen = {
        view: ((things + part) / 2**0.5).astype(np.float32)
        for style, part in zip(STYLES, np.eye(11)[8:], strict=True)
        for view in style.views
    }
    recipe = TextRecipe(
        epochs=40, batch=32, styled=24, others=16, rate_text=0.05, rate_head=0.05, keep_names=0, keep_vectors=0
    )
    tower, every = Words(), Pictures([b""] * 64, captions, ["flickr8k"] * 64)
    run = TextRun(recipe, every, range(64), seen, tower, 20.0)
    development = TextDevelopment([("dev", every, seen)], seen["plain"][:1], ["a photo of a tench"], [0])
    log: list[dict[str, Any]] = []
    run.train(development, tmp_path / "weights.pt", lambda **what: log.append(what))
    own = [f"dev own, {style.views[0]}" for style in STYLES]
    assert max(log[1][name] for name in own) < 0.05
    assert min(log[-1][name] for name in own) > 0.1  # an eighth at most: each thing is on eight pictures
    assert log[-1]["loss"] < log[2]["loss"]
    run.learner.load(torch.load(tmp_path / "weights.pt"))
    found = run.measure(development)
    assert {name: log[-1][name] for name in found} == found


def test_what_was_seen_is_not_encoded_again(pictures: list[Image.Image], tmp_path: Path) -> None:
    files = Pictures([as_file(one, "png") for one in pictures], [["a dog"], ["a cat"], ["a photo of a hat"]], ["x"] * 3)

    class Means:
        def encode_images(self, images: Sequence[Any]) -> Any:
            return np.array([one.mean(axis=(0, 1)) for one in images], np.float32)

    seen = see(["grey", "outlined"], files, Means(), tmp_path)  # type: ignore[arg-type]
    assert [len(seen[view]) for view in ("grey", "outlined")] == [3, 2]  # outlines are of captioned pictures
    np.testing.assert_array_equal(seen["grey"][:, 0], seen["grey"][:, 1])
    again = see(["grey", "outlined"], files, None, tmp_path)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again["grey"], seen["grey"])


def test_the_captions_of_a_picture_are_found_among_others(tmp_path: Path) -> None:
    """Blocks of two to seven captions, told by letters that are each in one block only."""
    sizes = [5, 4, 5, 7, 5, 3, 5, 6, 2, 5]
    blocks = [[f"{letter} {at}" for at in range(size)] for letter, size in zip("abcdefghij", sizes, strict=True)]
    file = tmp_path / "captions.txt.gz"
    with gzip.open(file, "wt") as lines:
        lines.writelines(f"{line}\n" for block in blocks for line in block)
    rng = np.random.default_rng(0)
    noise = {line: rng.normal(size=32) for block in blocks for line in block}

    def encode(texts: Sequence[str]) -> Embeddings:
        vectors = np.stack([6 * np.eye(32)["abcdefghij".index(text[0])] + noise[text] for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    found = Blocks(file, encode)
    for block in blocks:
        for line in block:
            assert found.of(f"{line.upper()}.") == block
    assert found.of("k 0") == ["k 0"]


def test_a_copy_of_another_size_and_shape_is_told(pictures: list[Image.Image]) -> None:
    files = [as_file(picture, "webp") for picture in pictures]
    squashed = [as_file(picture.resize((200, 120)), "jpeg") for picture in pictures]
    differ = _differ(_thumbnails(files), _thumbnails(squashed))
    assert (np.diag(differ) < COPY).all()
    assert (differ[~np.eye(len(pictures), dtype=bool)] > 2 * COPY).all()


def test_names_of_imagenets_classes() -> None:
    texts = class_texts()
    assert texts["a photo of a tench"] == texts["a photo of a Tinca tinca"] == 0
    assert texts["a photo of an ibex"] == 350
    assert "a photo of a crane" not in texts  # a bird and a machine
    others = other_class_texts(["a photo of a tinca tinca", "a photo of a sofa"])
    assert len(others) == len(set(texts.values())) - 1
    assert "a photo of a goldfish" in others
    assert "a photo of a tench" not in others


def test_captions_are_not_put_into_prompts() -> None:
    rng = random.Random(0)
    assert {prompted("a photo of a cat", rng) for _ in range(50)} == {prompt.format("a cat") for prompt in PROMPTS}
    assert prompted("a cat on a photo of grass", rng) == "a cat on a photo of grass"


def test_a_crop_is_half_of_the_picture_or_more() -> None:
    picture = Image.new("RGB", (320, 240))
    shapes = [cropped(picture, random.Random(seed)).size for seed in range(50)]
    shares = [width * height / (320 * 240) for width, height in shapes]
    assert min(shares) > 0.49
    assert max(shares) <= 1
    assert len(set(shapes)) > 40


def test_what_several_views_say_is_their_mean(image_onnx: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    """Vectors are those of the encoder that looks at corners, too."""
    stages = FrozenStages(image_onnx, tmp_path)
    views = ["plain", *CORNERS]
    seen = [stages.run([VIEWS[view](one, random.Random(0)) for one in pictures]) for view in views]
    found = mean_of([Said(logits, vectors) for _, logits, vectors in seen])
    np.testing.assert_allclose(found.logits, np.mean([logits for _, logits, _ in seen], axis=0), atol=0.02)
    for file in BUILTIN_DIR.iterdir():
        (tmp_path / file.name).symlink_to(image_onnx if file.name == "image.onnx" else file)
    encoder = CroppingEncoder(get_encoder(f"onnx:{tmp_path}"))
    np.testing.assert_allclose(found.vectors, encoder.encode_images([np.asarray(p) for p in pictures]), atol=1e-3)


def test_a_sketch_is_light_and_keeps_the_shape_of_the_picture(pictures: list[Image.Image]) -> None:
    picture = pictures[0]
    sketches = [sketched(picture, random.Random(seed)) for seed in range(40)]
    for one in sketches:
        assert 128 <= max(one.size) <= 512
        assert one.width / one.height == pytest.approx(picture.width / picture.height, rel=0.02)
    light = [np.asarray(one).mean() > 1.3 * np.asarray(picture).mean() for one in sketches]
    coloured = [np.ptp(np.asarray(one), axis=2).max() > 30 for one in sketches]
    assert 0 < sum(coloured) < 25
    assert all(is_light or is_coloured for is_light, is_coloured in zip(light, coloured, strict=True))


def test_pixels_are_as_the_encoder_takes_them() -> None:
    (found,) = pixels([Image.new("RGB", (10, 20), (255, 127, 0))], SIDE_PX)
    assert found.shape == (3, SIDE_PX, SIDE_PX)
    np.testing.assert_allclose(found[:, 5, 5], [1, 0, -127 / 128], atol=1e-6)
