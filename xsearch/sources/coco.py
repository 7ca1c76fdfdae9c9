"""Captions in the JSON of COCO (`captions_val2017.json`) beside a folder of pictures.

Format: https://cocodataset.org/#format-data, "Image Captioning".
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from xsearch.errors import SourceError
from xsearch.sources.folder import FoundFile
from xsearch.sources.samples import REREAD, Sample, container_file, one_line, read_picture, texts_of
from xsearch.types import Skipped


class CocoCaptions:
    """The pictures that the JSON lists, with their captions; the key of a sample is COCO's id of the picture.

    `root` is the folder of the pictures, unless told that of the JSON. The JSON is held in memory, as JSON is.
    """

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self._path = path
        self._root = path.parent if root is None else root

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def files(self) -> Sequence[FoundFile]:
        return (container_file(self._path),)

    def samples(self) -> Iterator[Sample | Skipped]:
        pictures, captions, skipped = self._content
        yield from skipped
        for key, file_name in pictures.items():
            file = self._root / file_name
            if file.is_file():
                yield Sample(key, file, texts_of(captions.get(key, ())))
            else:
                yield Skipped(f"{self.name} image {key}", "missing file", str(file))

    def read(self, key: str) -> bytes:
        pictures, _, _ = self._content
        if key not in pictures:
            raise SourceError(f"{self.name} lists no image {key}", remedy=REREAD)
        return read_picture(self._root / pictures[key])

    @cached_property
    def _content(self) -> tuple[dict[str, str], dict[str, list[object]], list[Skipped]]:
        """File names and captions by the ids of the pictures, and what is amiss in the JSON. Raises SourceError."""
        if not self._root.is_dir():
            raise SourceError(f"{self._root} is no folder of pictures", remedy="name it with --root")
        images, annotations = self._lists()
        pictures: dict[str, str] = {}
        skipped: list[Skipped] = []
        for at, image in enumerate(images):
            fields = image if isinstance(image, dict) else {}
            key, file_name = fields.get("id"), fields.get("file_name")
            if key is None or not isinstance(file_name, str) or not file_name or "\0" in file_name:
                skipped.append(
                    Skipped(f"{self.name} images[{at}]", "incomplete entry", "it lacks an id or a file_name")
                )
            elif str(key) in pictures:
                skipped.append(Skipped(f"{self.name} images[{at}]", "duplicate key", f"image {key} came before"))
            else:
                pictures[str(key)] = file_name
        captions: dict[str, list[object]] = {}
        for at, annotation in enumerate(annotations):
            fields = annotation if isinstance(annotation, dict) else {}
            key, caption = str(fields.get("image_id")), fields.get("caption")
            if not isinstance(caption, str):
                skipped.append(Skipped(f"{self.name} annotations[{at}]", "incomplete entry", "it lacks a caption"))
            elif key not in pictures:
                skipped.append(Skipped(f"{self.name} annotations[{at}]", "no picture", f"no image {key} is listed"))
            else:
                captions.setdefault(key, []).append(caption)
        return pictures, captions, skipped

    def _lists(self) -> tuple[list[object], list[object]]:
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise SourceError(f"{self.name} cannot be read as JSON ({one_line(error)})") from error
        parts = content if isinstance(content, dict) else {}
        images, annotations = parts.get("images"), parts.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise SourceError(f"{self.name} is no JSON of COCO: it lacks a list of images or of annotations")
        fields = {field for annotation in annotations if isinstance(annotation, dict) for field in annotation}
        if annotations and "caption" not in fields:
            raise SourceError(
                f"{self.name} holds no captions; its annotations have {', '.join(sorted(fields)) or 'nothing'}",
                remedy="COCO's captions are in captions_*.json",
            )
        return images, annotations
