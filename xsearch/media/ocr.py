"""Text that stands in pictures, read by RapidOCR with the weights in its wheel, PP-OCRv6. The owner of rapidocr.

Its alphabet is Latin with all accents, Greek, Chinese and Japanese; Cyrillic, Korean, Thai and Arabic are not in it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xsearch.errors import Undecodable, XSearchError
from xsearch.types import RGBImage

DECODE_PX = 400
"""What `decode_image` is asked for where a picture is to be read: letters are smaller than what an encoder sees."""

READ_SIDE_PX = 2000
DETECT_SIDE_PX = 960
"""Lines are looked for in a picture of at most this longer side, and read from one of READ_SIDE_PX.

A picture of 1920 x 1080 in which the letters of a text are 10 px high is still read without a fault. At 640 px half the
time of looking is saved, and that text is lost.
"""

MAX_LINES = 100
"""A line costs a tenth of a second of CPU time, a long one two; of more, the highest are read."""

MIN_CONFIDENCE = 0.7
MIN_CHARACTERS = 2
"""Letters and digits. In 51 of 104 photographs a line seems to stand; in 9 one is left, and all of these hold text."""

_PARAMS = {
    "Global.log_level": "critical",
    # One thread a picture: the pictures are read side by side.
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Det.limit_type": "max",  # the other way round small pictures are enlarged, which costs and finds nothing
    "Det.limit_side_len": DETECT_SIDE_PX,
    # Six lines at once, made as wide as the widest, take a fifth longer, and memory.
    "Rec.rec_batch_num": 1,
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text in a picture; `confidence` is the mean over its characters, 0 to 1."""

    text: str
    confidence: float

    @property
    def is_legible(self) -> bool:
        return self.confidence >= MIN_CONFIDENCE and sum(map(str.isalnum, self.text)) >= MIN_CHARACTERS


class Reader:
    """Reads the lines of text in pictures. Safe to call from several threads; nothing is downloaded.

    Raises XSearchError where the packages of the extra [ocr] are missing. The models are opened by the first picture.
    """

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            package = error.name or error
            raise XSearchError(
                f"a package that reads text in pictures is missing here ({package})",
                remedy="pip install 'xsearch[ocr]'",
            ) from error
        self._engine = RapidOCR(params=_PARAMS)

    def read(self, image: RGBImage) -> list[Line]:
        """Return the legible lines of a picture, top to bottom, at any angle. Raises Undecodable: "unreadable text"."""
        from rapidocr.main import RapidOCRError

        try:
            crops, _ = self._engine.detect_and_crop(_within(image, READ_SIDE_PX), {})
            upright, _ = self._engine.cls_and_rotate(_highest(crops))
            found = self._engine.recognize_txt(upright)
        except RapidOCRError:  # what it raises where there is nothing
            return []
        except Exception as error:  # its other errors, those of OpenCV and of ONNX Runtime share no base class but this
            raise Undecodable("unreadable text", " ".join(str(error).split())) from error
        lines = [Line(text.strip(), float(score)) for text, score in zip(found.txts, found.scores, strict=True)]
        return [line for line in lines if line.is_legible]


def _within(image: RGBImage, side_px: int) -> NDArray[np.uint8]:
    """Return the picture in OpenCV's order of colours, made smaller if one of its sides is longer."""
    import cv2

    blue_first = np.ascontiguousarray(image[:, :, ::-1])
    scale = side_px / max(image.shape)
    if scale >= 1:
        return blue_first
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(blue_first, size, interpolation=cv2.INTER_AREA), np.uint8)


def _highest(crops: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the MAX_LINES highest lines, in their order."""
    by_height = sorted(range(len(crops)), key=lambda at: -crops[at].shape[0])
    return [crops[at] for at in sorted(by_height[:MAX_LINES])]
