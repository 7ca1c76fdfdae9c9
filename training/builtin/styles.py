"""How a picture was made, as texts say it: as a photograph without colours, or drawn.

Training shows pictures without their colours, and as drawings, beside the texts of the photographs. What finds a lion
however it is shown says nothing of how: of version 6 "a black and white photograph" stands above pictures of other
styles in .46 of pairs (`benchmarks/styles.py`). So texts learn to say it (`texts.py`).
"""

import random
from dataclasses import dataclass

from names import NAMED
from pictures import FEW_VIEWS


@dataclass(frozen=True, slots=True)
class Style:
    """`said` are what is said of a picture and how it is made, `alone` only this; `views` are those made so.

    `unseen` say it in words that training has not: they show what was learned.
    """

    views: tuple[str, ...]
    said: tuple[str, ...]
    alone: tuple[str, ...]
    unseen: tuple[str, ...]


IN_COLOUR = Style(
    views=FEW_VIEWS,
    said=("a colour photograph of {}", "a colour photo of {}", "{} in colour"),
    alone=("a colour photograph", "a photograph in colour", "a photo in full colour", "a colour photo"),
    unseen=("a colourful photo", "a modern colour picture"),
)
GREY = Style(
    views=("grey",),
    said=(
        "a black and white photograph of {}",
        "a black and white photo of {}",
        "a black and white picture of {}",
        "{} in black and white",
        "a monochrome photograph of {}",
        "black and white {}",
        "a greyscale picture of {}",
    ),
    alone=(
        "a black and white photograph",
        "a black and white photo",
        "black and white",
        "a monochrome picture",
        "a black and white picture",
        "a greyscale photograph",
    ),
    unseen=("an old black and white film", "a picture without colours"),
)
DRAWN = Style(
    views=("outlined", "sketched"),
    said=(
        "a drawing of {}",
        "a line drawing of {}",
        "a sketch of {}",
        "a pencil sketch of {}",
        "a pencil drawing of {}",
        "an illustration of {}",
        "a drawn picture of {}",
    ),
    alone=("a drawing", "a line drawing", "a sketch", "a pencil sketch", "a pencil drawing", "an illustration"),
    unseen=("a pen and ink drawing", "a comic"),
)
STYLES = (IN_COLOUR, GREY, DRAWN)
"""A picture is of the first if nothing was done to it."""


def styled(text: str, style: Style, rng: random.Random) -> str:
    """Return a caption or the name of a thing as the text of a picture of that style."""
    shown = text.removeprefix(NAMED).rstrip(". ")
    is_name_of_something = len(shown) > 1 and shown[1].isupper()
    return rng.choice(style.said).format(shown if is_name_of_something else shown[:1].lower() + shown[1:])
