"""Plain texts: decoded, and cut into passages that an encoder can take in whole."""

import codecs
import re

from xsearch.errors import Undecodable

SUFFIXES = frozenset({".txt", ".md"})

# Sentence encoders read 128 tokens, about 90 English words; a passage below that loses nothing.
PASSAGE_WORDS = 80

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def passages(data: bytes) -> list[str]:
    """Return the passages of a text file in order: whole paragraphs of together at most PASSAGE_WORDS words.

    A longer paragraph is cut after sentences, a longer sentence between words. Raises Undecodable if there is no text.
    """
    found: list[str] = []
    held = 0
    for piece in _pieces(_decode(data)):
        words = len(piece.split())
        if found and held + words <= PASSAGE_WORDS:
            found[-1] += "\n" + piece
            held += words
        else:
            found.append(piece)
            held = words
    return found


def captions(data: bytes) -> list[str]:
    """Return the captions in a picture's caption file, one a line. Raises Undecodable if there is no text."""
    return [line.strip() for line in _decode(data).splitlines() if line.strip()]


def _pieces(text: str) -> list[str]:
    pieces = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        if 0 < len(words) <= PASSAGE_WORDS:
            pieces.append(paragraph.strip())
        elif words:
            for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip()):
                words = sentence.split()
                pieces += [" ".join(words[i : i + PASSAGE_WORDS]) for i in range(0, len(words), PASSAGE_WORDS)]
    return pieces


def _decode(data: bytes) -> str:
    if not data:
        raise Undecodable("empty file")
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # Older texts of Western Europe; nearly every byte means something in it, so NUL is what tells a binary file.
        text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise Undecodable("not a text", "it holds NUL bytes")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Undecodable("empty file", "there is nothing but white space")
    return text
