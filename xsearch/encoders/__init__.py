"""Encoders by name."""

from pathlib import Path

from xsearch.encoders.base import Encoder, Patches, Words, framing_apart
from xsearch.errors import EncoderUnavailable

__all__ = ["DEFAULT_MODEL", "Encoder", "Patches", "Words", "framing_apart", "get_encoder"]

DEFAULT_MODEL = "builtin"


def get_encoder(name: str = DEFAULT_MODEL) -> Encoder:
    """Open an encoder: `builtin`, `onnx:FOLDER`, `openclip:ARCHITECTURE/PRETRAINED`, a preset or a trained FOLDER.

    Raises EncoderUnavailable if there is no such encoder or it cannot be loaded here.
    """
    if name == DEFAULT_MODEL:
        from xsearch.encoders.onnx import BUILTIN_DIR, OnnxEncoder

        return OnnxEncoder(BUILTIN_DIR, name=name)
    if name.startswith("onnx:"):
        from xsearch.encoders.onnx import OnnxEncoder

        folder = Path(name.removeprefix("onnx:")).resolve()
        return OnnxEncoder(folder, name=f"onnx:{folder}")
    from xsearch.encoders.heads import is_headed, open_heads, read_config

    if is_headed(Path(name)):
        folder = Path(name).resolve()
        return open_heads(folder, get_encoder(read_config(folder)["base"]))
    from xsearch.encoders import towers
    from xsearch.encoders.presets import PRESETS

    if trained := towers.read_config(Path(name)):
        name = f"openclip:{trained['architecture']}/{Path(name).resolve() / towers.WEIGHTS}"

    if name in PRESETS or name.startswith("openclip:"):
        from xsearch.encoders.openclip import OpenClipEncoder

        return OpenClipEncoder.open(PRESETS[name].model if name in PRESETS else name)
    raise EncoderUnavailable(f"there is no encoder called {name!r}", remedy="`xsearch models` lists them")
