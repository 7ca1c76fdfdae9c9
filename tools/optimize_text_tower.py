"""Store a text tower as ONNX Runtime optimises it, so that opening it skips that work: four times faster.

    python tools/optimize_text_tower.py xsearch/encoders/builtin

The level "extended" holds for every CPU; what is above it is specific to one. Image towers are left alone: their
float16 weights would be stored as float32. Renews `weights` in config.json.
"""

import json
import sys
from pathlib import Path

import onnxruntime

from xsearch.encoders.onnx import weights_hash

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text("utf-8"))
tower = folder / config["text"]["file"]
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = str(tower.with_suffix(".optimized"))
onnxruntime.InferenceSession(str(tower), options, providers=["CPUExecutionProvider"])
tower.with_suffix(".optimized").replace(tower)
config["weights"] = weights_hash(folder, config)
(folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
