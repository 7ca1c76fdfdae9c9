"""A trained open_clip model as a folder: `xsearch train --method lora` and `full` make one. Nothing heavy here.

A folder holds `model.safetensors`, all weights, and `config.json`: which architecture they are of, and for which tag's
training pictures are prepared. It is opened by its own name, or as `openclip:ARCHITECTURE/FOLDER/model.safetensors`.
"""

import json
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "towers"


def config_of(architecture: str, tag: str | None, base: str) -> dict[str, Any]:
    """Return what `config.json` says; `tag` is None where pictures are prepared by the defaults of open_clip."""
    return {"kind": KIND, "architecture": architecture, "tag": tag, "base": base}


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return `config.json`, or None where a folder holds no trained towers."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and config.get("kind") == KIND and "architecture" in config else None
