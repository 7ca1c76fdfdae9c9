"""Encoders by name."""

from pathlib import Path

from xsearch.encoders import crops
from xsearch.encoders.base import Encoder, Patches, Words, framing_apart
from xsearch.errors import EncoderUnavailable

__all__ = ["DEFAULT_MODEL", "Encoder", "Patches", "Words", "framing_apart", "get_encoder"]

DEFAULT_MODEL = "builtin"


def get_encoder(name: str = DEFAULT_MODEL, device: str | None = None) -> Encoder:
    """Open an encoder: `builtin`, `onnx:FOLDER`, `openclip:ARCHITECTURE/PRETRAINED`, a preset or a trained FOLDER.

    `crops:` before any of these names looks at the corners of pictures, too: `crops:builtin`.

    Models of open_clip compute on `device`, by default on a GPU if there is one: "cpu", "cuda" (all GPUs), "cuda:1", or
    several as "cuda:0,cuda:1"; the others only on "cpu". Raises EncoderUnavailable if there is no such encoder or it
    cannot be loaded here.
    """
    if name.startswith(crops.PREFIX):
        return crops.CroppingEncoder(get_encoder(name.removeprefix(crops.PREFIX), device))
    on_cpu_alone = name == DEFAULT_MODEL or name.startswith("onnx:")
    if on_cpu_alone and device not in (None, "cpu"):
        raise EncoderUnavailable(
            f"{name} computes on the CPU alone, not on {device}",
            remedy="leave --device out, or name a model of open_clip: `xsearch models`",
        )
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
        return open_heads(folder, get_encoder(read_config(folder)["base"], device))
    from xsearch.encoders import towers
    from xsearch.encoders.presets import PRESETS

    if trained := towers.read_config(Path(name)):
        name = f"openclip:{trained['architecture']}/{Path(name).resolve() / towers.WEIGHTS}"

    if name in PRESETS or name.startswith("openclip:"):
        from xsearch.encoders.openclip import open_encoder

        return open_encoder(PRESETS[name].model if name in PRESETS else name, device)
    raise EncoderUnavailable(f"there is no encoder called {name!r}", remedy="`xsearch models` lists them")
