"""The image tower of an export in bfloat16, by OpenVINO, where that is installed and the CPU computes in it.

The owner of openvino. ONNX Runtime has no kernels of bfloat16 for CPUs.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino


def open_bfloat16(file: Path, threads: int) -> "OpenVinoTower | None":
    """Open an ONNX file to be computed in bfloat16; None where OpenVINO is missing, or the CPU has no bfloat16."""
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    return OpenVinoTower(core, file, threads, "bf16")


class OpenVinoTower:
    """As a session of ONNX Runtime: so many threads may `run` it at once, each computing on one core."""

    def __init__(self, core: "openvino.Core", file: Path, threads: int, precision: str) -> None:
        streams = {"NUM_STREAMS": str(threads), "INFERENCE_NUM_THREADS": threads}
        self._model = core.compile_model(file, "CPU", {**streams, "INFERENCE_PRECISION_HINT": precision})
        self._of_thread = threading.local()
        # OpenVINO's bindings meet numpy at the first array: two threads that bring one at once wait for each other.
        self._model.create_infer_request().get_input_tensor().data  # noqa: B018

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the named outputs."""
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._model.create_infer_request()
        found = request.infer(dict(inputs))
        return [np.array(found[name], np.float32) for name in outputs]  # the request uses its own again
