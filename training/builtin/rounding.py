"""An image tower for larger pictures, and its convolutions rounded to int8 (Jacob et al. 2018), which pays for these.

Weights have a scale for each channel that goes out, activations one for each tensor, which the least and the most of
what some pictures bring sets, once: a vector does not depend on what else is in its batch. Weights have seven of the
eight bits, as the products of CPUs without VNNI would overflow; so every CPU computes the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from pictures import STRIDE_PX, chunks, pixels
from PIL import Image

ROUNDED = ("Conv", "Clip", "Add")
# The first stages stay in float32: they lose the most, outlines above all, and gain little speed. So do the last, which
# compute over few pixels.
NOT_ROUNDED = ("/_conv_stem/", "/_swish/", *(f"/_blocks.{at}/" for at in (0, 1, 2, 19, 20)))
NO_WEIGHT = 1e-4
SMALL = 5000  # numbers


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pictures: Sequence[Image.Image], side_px: int) -> None:
        self._chunks = chunks(pictures)
        self._side_px = side_px

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        chunk = next(self._chunks, None)
        return None if chunk is None else {"pixels": pixels(chunk, self._side_px)}


def side_of(image_onnx: Path) -> int:
    """Return the pixels of a side of the pictures that a tower takes."""
    return int(onnx.load(image_onnx).graph.input[0].type.tensor_type.shape.dim[2].dim_value)


def enlarge(image_onnx: Path, side_px: int, out: Path) -> None:
    """Write the same tower for pictures of another size: a patch stays as large as it was, and there are more."""
    model = onnx.load(image_onnx)
    patches = (side_px // STRIDE_PX) ** 2
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = side_px
    for output in model.graph.output:
        if output.name.startswith("patch"):
            output.type.tensor_type.shape.dim[1].dim_value = patches
    del model.graph.value_info[:]
    onnx.save(model, out)


def round_convolutions(image_onnx: Path, pictures: Sequence[Image.Image], out: Path, last: str | None = None) -> None:
    """Write the tower with its convolutions in int8: all of them, or those that the tensor `last` comes from."""
    unrounded = out.with_suffix(".float32")
    model = _optimised(image_onnx, unrounded)
    _give_weights(model.graph)
    nodes = _before(model.graph, last or _last_convolution(model.graph))
    onnx.save(model, unrounded)
    quantize_static(
        unrounded,
        out,
        _Batches(pictures, side_of(image_onnx)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=ROUNDED,
        nodes_to_quantize=[
            node.name for node in nodes if node.op_type in ROUNDED and not node.name.startswith(NOT_ROUNDED)
        ],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    unrounded.unlink()
    model = onnx.load(out)
    _store_as_float16(model.graph)
    onnx.save(model, out)


def _optimised(image_onnx: Path, out: Path) -> ModelProto:
    """Return the graph with its constants computed and padding in the convolutions, where it is rounded with them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(image_onnx, options, providers=["CPUExecutionProvider"])
    return onnx.load(out)


def _give_weights(graph: GraphProto) -> None:
    """Give a channel that has next to no weights one that changes nothing.

    It would have no scale, and its bias, which is counted in steps of the scale, would overflow.
    """
    held = {one.name: one for one in graph.initializer}
    for node in [one for one in graph.node if one.op_type == "Conv"]:
        array = numpy_helper.to_array(held[node.input[1]]).copy()
        array[np.abs(array).max(axis=(1, 2, 3)) < NO_WEIGHT, 0, 0, 0] = NO_WEIGHT
        held[node.input[1]].CopyFrom(numpy_helper.from_array(array, node.input[1]))


def _store_as_float16(graph: GraphProto) -> None:
    """Store what is large and not rounded in half the size, cast when the graph is loaded."""
    for one in [one for one in graph.initializer if one.data_type == TensorProto.FLOAT and np.prod(one.dims) > SMALL]:
        stored = f"{one.name}_h"
        graph.node.insert(
            0, helper.make_node("Cast", [stored], [one.name], name=f"{stored}/Cast", to=TensorProto.FLOAT)
        )
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), stored))


def _last_convolution(graph: GraphProto) -> str:
    """Return what comes out of the last convolution and its activation: the head behind it stays as it is."""
    (last,) = [node for node in graph.node if node.op_type == "Conv"][-1].output
    return str(next(node.output[0] for node in graph.node if last in node.input))


def _before(graph: GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """Return the nodes that a tensor comes from."""
    made_by = {name: node for node in graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}
    left = [tensor]
    while left:
        node = made_by.get(left.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            left.extend(node.input)
    return list(found.values())
