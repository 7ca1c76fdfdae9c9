"""How a picture is brought to the size that an encoder sees. Nothing heavy: processes that only decode load it, too."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xsearch.types import RGBImage

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_ASPECT = 64
"""Of a longer strip only the middle is seen: 1 x 30,000 pixels, scaled until the short side fits, are gigabytes."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a picture is brought to `height` x `width`, as open_clip does it (`open_clip.transform.image_transform`).

    `resize` is squash; shortest: scaled until the shorter side fits, and the middle is taken; or longest: scaled until
    all fits, and the rest filled with the grey level `fill`. Of a picture whose long side is more than `max_aspect`
    times the short one, only the middle counts: scaled until its short side fits it could take gigabytes.
    """

    height: int
    width: int
    resize: str
    interpolation: str
    fill: int = 0
    max_aspect: int | None = None

    def pixels(self, image: RGBImage) -> RGBImage:
        """Return a picture as (height, width, 3). One that has been brought to that already stays as it is."""
        if image.shape == (self.height, self.width, 3):
            return image
        return np.asarray(self.framed(image))

    def framed(self, image: RGBImage) -> "Image":
        """Return an RGB picture of `height` x `width`."""
        from PIL import Image

        if self.max_aspect is not None:
            longest = self.max_aspect * min(image.shape[:2])
            image = image[
                tuple(slice(max(0, (side - longest) // 2), (side + longest) // 2) for side in image.shape[:2])
            ]
        picture = Image.fromarray(image)
        width, height = picture.size
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        if self.resize == "squash":
            return picture.resize((self.width, self.height), filters[self.interpolation])
        ratios = height / self.height, width / self.width
        if self.resize == "longest":
            scaled = round(width / max(ratios)), round(height / max(ratios))
            inside = picture.resize(scaled, filters[self.interpolation])
            whole = Image.new("RGB", (self.width, self.height), (self.fill,) * 3)
            whole.paste(inside, ((self.width - scaled[0]) // 2, (self.height - scaled[1]) // 2))
            return whole
        if self.width == self.height:
            # Not by the ratio: torchvision cuts the long side off where it does not come out even.
            short = min(width, height)
            scaled = int(self.width * width / short), int(self.height * height / short)
            return _middle(picture.resize(scaled, filters[self.interpolation]), self.height, self.width)
        scaled = round(width / min(ratios)), round(height / min(ratios))
        # open_clip does not hand the filter on to its own resizing.
        return _middle(picture.resize(scaled, filters["bicubic"]), self.height, self.width)


def _middle(picture: "Image", height: int, width: int) -> "Image":
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))
