"""Small pictures of weights, and charts, as images in data URIs, which a page can show without a request.

A picture has one byte per weight, in base64: 127 is zero, 254 is the weight at the end of the scale or more, 0 is the negative
of that weight or less.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO

from PIL import Image, ImageColor

TOP = 254


@lru_cache(maxsize=8)
def ramp_of(weights: tuple[str, ...]) -> bytes:
    """The colour of each byte of a picture, three bytes each, from the most negative weight to the most positive.

    weights     equally spaced colours of that scale, see `Palette.weights`
    """
    stops = [rgb(colour) for colour in weights]
    ramp: list[int] = []
    for level in range(TOP + 1):
        place = level / TOP * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        share = place - index
        ramp += mixed(stops[index], stops[index + 1], share)
    return bytes(ramp)


def rgb(colour: str) -> tuple[int, ...]:
    """The red, green and blue of a colour such as "#1f2430"."""
    return ImageColor.getrgb(colour)[:3]


def mixed(one: Sequence[int], other: Sequence[int], share: float) -> list[int]:
    """A colour between two others; `share` is that of the other."""
    return [round(a + share * (b - a)) for a, b in zip(one, other, strict=True)]


def picture_image(picture: str, width: int, height: int, weights: tuple[str, ...]) -> Image.Image:
    """A picture in the colours of a scale."""
    image = Image.frombytes("P", (width, height), b64decode(picture))
    image.putpalette(ramp_of(weights))
    return image


@lru_cache(maxsize=512)
def picture_uri(picture: str, width: int, height: int, weights: tuple[str, ...]) -> str:
    """A picture as a PNG."""
    content = BytesIO()
    picture_image(picture, width, height, weights).save(content, "PNG")
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def svg_uri(svg: str) -> str:
    """A chart. Streamlit removes SVG elements from HTML, but not images."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
