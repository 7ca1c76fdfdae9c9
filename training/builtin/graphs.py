"""Weights read out of a pair of ONNX graphs, and written back into them.

The graphs stay as they are and only weights change, so interface and speed of the result are those of the start; only
what a layer of the text tower rounds is divided first, channel by channel.
Pictures' weights are float16, cast when the graph is loaded; matrices of the text tower are int8, with a scale
for each column: with one for all, as version 0 had, 1.5 points of recall are lost.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from towers import ImageTower, TextTower

WEIGHTED = {"Conv": False, "Gemm": False, "MatMul": True, "MatMulInteger": True}


def read_image_tower(image_onnx: Path, dropout: float) -> ImageTower:
    graph = onnx.load(image_onnx).graph
    scale = {node.name: _constant(graph, node.input[1]) for node in graph.node if node.name in ("/Mul_3", "/Mul_4")}
    tower = ImageTower(scale["/Mul_3"], scale["/Mul_4"], dropout)
    _load(tower, graph)
    return tower


def read_text_tower(text_onnx: Path, minilm: Path, tuned_layers: int) -> TextTower:
    """MiniLM comes as float32 from its own package: the graph holds it rounded to int8."""
    tower = TextTower(minilm, text_onnx.parent / "tokenizer.json", tuned_layers)
    _load(tower.l, onnx.load(text_onnx).graph, prefix="l.")
    return tower


def load_rounded(tower: nn.Module, start: Path, rounded: Path) -> None:
    """Load what learns from the text tower of a later version, whose weights are rounded, and multiplied by divisors.

    `start` is the graph that this was written from: when it was optimised, its nodes lost their names.
    """
    graph = onnx.load(start).graph
    places = _places(graph)
    rounding = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    taken_in = {_module(node): rounding[node.input[0]] for node in graph.node if node.op_type == "MatMulInteger"}
    held = {one.name: one for one in onnx.load(rounded).graph.initializer}
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if not parameter.requires_grad:
                continue
            at, transposed = places[name][0]
            array = _fetch(held, at)
            layer, _, kind = name.rpartition(".")
            inverse = held.get(f"{taken_in.get(layer)}_inverse")
            if kind == "weight" and inverse is not None:
                array = array * numpy_helper.to_array(inverse)[:, None]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array.T if transposed else array)))


def write_tower(tower: nn.Module, start: Path, out: Path, divisors: Mapping[str, Tensor] | None = None) -> None:
    """Write the graph of `start` with the weights of `tower`; what the tower does not hold stays as it is.

    What the layers in `divisors` take in is divided by theirs before it is rounded (`smoothing.py`).
    """
    divisors = divisors or {}
    model = onnx.load(start)
    held = {one.name: one for one in model.graph.initializer}
    places = _places(model.graph)
    for name, weights in tower.state_dict().items():
        layer, _, kind = name.rpartition(".")
        array = (weights * divisors.get(layer, 1) if kind == "weight" else weights).float().numpy()
        for at, transposed in places.get(name, ()):
            _store(held, at, array.T if transposed else array)
    _divide(model.graph, divisors)
    onnx.save(model, out)


def store_unsigned(text_onnx: Path) -> None:
    """Store weights that are int8 as uint8, each 128 more, and so their zero points: they mean the same.

    CPUs without VNNI multiply uint8 by int8 in pairs whose sum is cut off at 16 bits: vectors of version 3 had a cosine
    of .997 to those of other CPUs. They multiply uint8 by uint8 exactly.
    """
    model = onnx.load(text_onnx)
    for one in model.graph.initializer:
        if one.data_type == TensorProto.INT8:
            array = numpy_helper.to_array(one).astype(np.int16) + 128
            one.CopyFrom(numpy_helper.from_array(array.astype(np.uint8), one.name))
    onnx.save(model, text_onnx)


def _divide(graph: GraphProto, divisors: Mapping[str, Tensor]) -> None:
    """Put a multiplication before the rounding of what each layer takes in; some take in the same."""
    rounding = {node.output[0]: node for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    for node in [one for one in graph.node if one.op_type == "MatMulInteger" and _module(one) in divisors]:
        rounded = rounding.pop(node.input[0], None)
        if rounded is not None:
            inverse, divided = (f"{rounded.input[0]}_{what}" for what in ("inverse", "divided"))
            array = (1 / divisors[_module(node)]).float().numpy()
            graph.initializer.append(numpy_helper.from_array(array, inverse))
            at = list(graph.node).index(rounded)
            graph.node.insert(at, helper.make_node("Mul", [rounded.input[0], inverse], [divided]))
            graph.node[at + 1].input[0] = divided


def _load(module: nn.Module, graph: GraphProto, prefix: str = "") -> None:
    held = {one.name: one for one in graph.initializer}
    places = _places(graph)
    state: dict[str, Tensor] = {}
    for name in module.state_dict():
        at, transposed = places[prefix + name][0]
        array = _fetch(held, at)
        state[name] = torch.from_numpy(np.ascontiguousarray(array.T if transposed else array))
    module.load_state_dict(state)


def _places(graph: GraphProto) -> dict[str, list[tuple[str, bool]]]:
    """Return for each parameter, by its name in torch, the initializers that hold it and whether these are transposed.

    A parameter that exporting renamed is known by its node: "/_blocks.16/_expand_conv/Conv" holds the weight of
    `_blocks.16._expand_conv`. A module that is used twice has a second node, whose path ends in "_1".
    """
    cast = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    names = {one.name for one in graph.initializer}
    places: dict[str, list[tuple[str, bool]]] = {}
    for name in sorted(names):
        if "::" not in name and not name.endswith(("_quantized", "_scale", "_zero_point", "_Transposed")):
            places[name.removesuffix("_h")] = [(name, False)]
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        for parameter, tensor in zip(("weight", "bias"), node.input[1:3], strict=False):
            held = cast.get(tensor, tensor)
            if held in names and not held.endswith("_zero_point"):
                place = (held, WEIGHTED[node.op_type])
                known = places.setdefault(f"{_module(node)}.{parameter}", [])
                known.extend([place] if place not in known else [])
    return places


def _module(node: NodeProto) -> str:
    return str(node.name).strip("/").replace("/", ".").rpartition(".")[0].removesuffix("_1")


def _fetch(held: Mapping[str, TensorProto], name: str) -> NDArray[np.float32]:
    array: NDArray[Any] = numpy_helper.to_array(held[name])
    if name.endswith("_quantized"):
        scale = numpy_helper.to_array(held[name.replace("_quantized", "_scale")])
        zero = numpy_helper.to_array(held[name.replace("_quantized", "_zero_point")])
        array = (array.astype(np.float32) - zero) * scale
    return array.astype(np.float32)


def _store(held: Mapping[str, TensorProto], name: str, array: NDArray[np.float32]) -> None:
    """Round as the initializer of that name is: to its float type, or to int8 with a scale for each column."""
    given = numpy_helper.to_array(held[name])
    if given.shape != array.shape:
        raise ValueError(f"{name} has the shape {given.shape}, not {array.shape}")
    if name.endswith("_quantized"):
        scale = (np.abs(array).max(axis=0) / 127).astype(np.float32)
        for suffix, values in (("_scale", scale), ("_zero_point", np.zeros(len(scale), np.int8))):
            at = name.replace("_quantized", suffix)
            held[at].CopyFrom(numpy_helper.from_array(values, at))
        array = np.rint(array / scale)
    held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, given.dtype), name))


def _constant(graph: GraphProto, name: str) -> float:
    held = {one.name: one for one in graph.initializer} | {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"
    }
    return float(numpy_helper.to_array(held[name]))
