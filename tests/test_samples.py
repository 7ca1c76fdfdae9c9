"""Data sets: what their readers give of whole ones, and what they say of damaged ones, with real files of each kind."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from xsearch.errors import SourceError
from xsearch.sources import hf, tars
from xsearch.sources.coco import CocoCaptions
from xsearch.sources.containers import holds_samples, open_samples
from xsearch.sources.embeddings import (
    EmbeddingBlock,
    EmbeddingFiles,
    ExportFormat,
    embedding_files,
    read_embeddings,
    write_export,
)
from xsearch.sources.parquet import ParquetSamples
from xsearch.sources.samples import MORE_MAY_FOLLOW, Sample, SampleSource
from xsearch.sources.tars import TarSamples
from xsearch.types import Skipped


def picture(shade: int, form: str = "JPEG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 128, 255 - shade)).save(data, form)
    return data.getvalue()


PICTURES = [picture(10 * number) for number in range(8)]


def read_all(source: SampleSource) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The samples, and where in the container what is skipped for which reason."""
    entries = list(source.samples())
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    assert all(skip.path.startswith(f"{source.name} ") for skip in skipped)
    # Those that tell of a place, not of a sample, are the ones behind which there may be more.
    places = [
        skip.reason for skip in skipped if re.match(r"after |rows |from ", skip.path.removeprefix(f"{source.name} "))
    ]
    assert places == [skip.reason for skip in skipped if skip.reason in MORE_MAY_FOLLOW]
    where = [(skip.path.removeprefix(f"{source.name} "), skip.reason) for skip in skipped]
    return [entry for entry in entries if isinstance(entry, Sample)], where


def assert_all_readable(source: SampleSource, samples: Sequence[Sample]) -> None:
    """Each picture is found again by its key, by a reader that has read nothing yet; and the order is stable."""
    assert samples
    for sample in reversed(samples):
        image = sample.image
        assert source.read(sample.key) == (image if isinstance(image, bytes) else image.read_bytes())
    assert read_all(source)[0] == list(samples)


# Tars


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def img2dataset_members() -> list[tuple[str, bytes]]:
    members = []
    for number in range(3):
        caption = f"caption {number}"
        meta = {"caption": caption, "url": "https://example.org/x.jpg", "key": f"{number:09d}", "status": "success"}
        members += [
            (f"{number:09d}.jpg", PICTURES[number]),
            (f"{number:09d}.json", json.dumps(meta).encode()),
            (f"{number:09d}.txt", caption.encode()),
        ]
    return members


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")]
)
def test_tar_of_img2dataset(tmp_path: Path, suffix: str, mode: str) -> None:
    path = write_tar(tmp_path / f"00000{suffix}", img2dataset_members(), mode)
    samples, skipped = read_all(TarSamples(path))
    assert samples == [Sample(f"{n:09d}", PICTURES[n], (f"caption {n}",)) for n in range(3)]
    assert skipped == []
    assert_all_readable(TarSamples(path), samples)
    (file,) = TarSamples(path).files
    assert (file.file, file.bytes, file.mtime_ns) == (path, path.stat().st_size, path.stat().st_mtime_ns)


def test_tar_members_of_a_key_in_any_order(tmp_path: Path) -> None:
    members = [
        ("./set/b.json", json.dumps({"captions": ["two", " one ", "", 7, "two"]}).encode()),
        ("./set/b.webp", picture(3, "WEBP")),
        ("./set/a.TXT", b"\xef\xbb\xbffirst line\r\n\r\nsecond line\r\n"),
        ("./set/a.cls", b"7"),
        ("./set/a.PNG", picture(4, "PNG")),
    ]
    samples, skipped = read_all(TarSamples(write_tar(tmp_path / "a.tar", members)))
    assert samples == [
        Sample("set/b", picture(3, "WEBP"), ("two", "one")),
        Sample("set/a", picture(4, "PNG"), ("first line", "second line")),
    ]
    assert skipped == []


def test_tar_text_columns(tmp_path: Path) -> None:
    fields = {"caption": "alt", "prompt": "a prompt", "title": "a title"}
    path = write_tar(
        tmp_path / "a.tar", [("1.jpg", PICTURES[0]), ("1.json", json.dumps(fields).encode()), ("1.txt", b"t")]
    )

    def texts(*columns: str) -> tuple[str, ...]:
        return read_all(TarSamples(path, text_columns=columns))[0][0].texts

    assert texts() == ("alt", "t")
    assert texts("prompt", "title") == ("a prompt", "a title")
    assert texts("txt") == ("t",)
    assert texts("nothing") == ()


def test_tar_of_photos_with_dots_in_their_names(tmp_path: Path) -> None:
    members = [(f"shot 12.30.{number:03d}.png", bytes([number])) for number in range(tars.MAX_GROUP + 2)]
    members += [("7.left.jpg", b"l"), ("7.right.jpg", b"r"), ("7.right.txt", b"on the right"), ("7.txt", b"both")]
    path = write_tar(tmp_path / "a.tar", members)
    samples, skipped = read_all(TarSamples(path))
    assert samples == [
        *(Sample(name.removesuffix(".png"), data, ()) for name, data in members[: tars.MAX_GROUP + 2]),
        Sample("7.left", b"l", ("both",)),
        Sample("7.right", b"r", ("on the right",)),
    ]
    assert skipped == []
    assert_all_readable(TarSamples(path), samples)


def test_tar_keeps_real_photographs_as_they_are(tmp_path: Path, photos: Path) -> None:
    files = sorted(file for file in photos.rglob("*") if file.suffix in tars.PICTURES)[:5]
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(photos, "photos", recursive=False)
        for file in files:
            archive.add(file, f"photos/{file.name}")
    samples, skipped = read_all(TarSamples(path))
    assert [sample.image for sample in samples] == [file.read_bytes() for file in files]
    assert [sample.key for sample in samples] == [f"photos/{file.stem}" for file in files]
    assert skipped == []
    assert_all_readable(TarSamples(path), samples)


def test_tar_says_what_it_does_not_take(tmp_path: Path) -> None:
    members = [
        ("1.jpg", PICTURES[1]),
        ("1.jpg", PICTURES[2]),
        ("2.jpg", PICTURES[2]),
        ("2.png", PICTURES[3]),
        ("1.txt", b"too late"),
        ("3.txt", b"a text alone"),
        ("4.jpg", PICTURES[4]),
        ("4.json", b'{"caption": "cut'),
        ("5.jpg", PICTURES[5]),
        ("5.json", b'["no object"]'),
        ("._6.jpg", b"left by a Mac"),
        ("7.mp4", b"film"),
        ("README", b"read me"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("8.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    samples, skipped = read_all(TarSamples(path))
    assert samples == [Sample(str(n), PICTURES[n], ()) for n in (1, 2, 4, 5)]
    assert skipped == [
        ("1.jpg", "duplicate key"),
        ("2.png", "duplicate key"),
        ("1.txt", "not beside its picture"),
        ("3.txt", "no picture"),
        ("4.json", "damaged JSON"),
        ("._6.jpg", "hidden"),
        ("7.mp4", "no picture"),
        ("8.jpg", "not a regular file"),
        ("README", "no picture"),
    ]
    assert_all_readable(TarSamples(path), samples)


def test_tar_with_names_that_lead_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    names = ["../../outside.jpg", "/etc/outside.jpg", "C:\\outside.jpg", "caf\udce9.jpg"]
    path = write_tar(folder / "a.tar", [(name, PICTURES[at]) for at, name in enumerate(names)])
    samples, skipped = read_all(TarSamples(path))
    assert [sample.key for sample in samples] == ["../../outside", "/etc/outside", "C:\\outside", "caf\\udce9"]
    assert skipped == []
    assert_all_readable(TarSamples(path), samples)
    assert [file.name for file in tmp_path.rglob("*")] == ["inside", "a.tar"]


@given(st.data())
def test_tar_cut_anywhere_gives_what_is_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", img2dataset_members())
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        ends = [header.offset_data + header.size for header in archive if header.name.endswith(".jpg")]
    cut = data.draw(st.integers(1, archive.offset - 1))
    path.write_bytes(whole[:cut])
    if cut < tarfile.BLOCKSIZE:
        with pytest.raises(SourceError, match=r"a\.tar cannot be read as a tar \(truncated header"):
            list(TarSamples(path).samples())
        return
    samples, skipped = read_all(TarSamples(path))
    assert [sample.image for sample in samples] == [PICTURES[at] for at, end in enumerate(ends) if end <= cut]
    assert [reason for _, reason in skipped if reason != "no picture"] == ["damaged archive"]
    for sample in samples:
        assert TarSamples(path).read(sample.key) == sample.image


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: bz2.compress(data, 1), lzma.compress])
def test_compressed_tar_cut_in_the_middle(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    noise = np.random.default_rng(0).bytes(1 << 18)
    path = write_tar(tmp_path / "a.tar", [("1.jpg", PICTURES[1]), ("2.jpg", noise), ("3.jpg", noise[::-1])])
    path.write_bytes(compress(path.read_bytes())[: -len(noise) // 2])
    samples, skipped = read_all(TarSamples(path))
    assert samples == [Sample("1", PICTURES[1], ()), Sample("2", noise, ())]
    assert skipped == [("after 2.jpg", "damaged archive")]
    assert TarSamples(path).read("2") == noise
    with pytest.raises(SourceError, match="holds no picture 3"):
        TarSamples(path).read("3")


def test_tar_with_rubbish_in_the_middle(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", img2dataset_members())
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        at = archive.getmember("000000001.json").offset
    content[at : at + 512] = b"\x7f" * 512
    path.write_bytes(content)
    samples, skipped = read_all(TarSamples(path))
    assert samples == [Sample("000000000", PICTURES[0], ("caption 0",)), Sample("000000001", PICTURES[1], ())]
    assert skipped == [("after 000000001.jpg", "damaged archive")]


def test_tar_member_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_MEMBER_BYTES", len(PICTURES[1]))
    path = write_tar(tmp_path / "a.tar", [("1.jpg", PICTURES[1]), ("2.jpg", PICTURES[2] + b"\0")])
    samples, skipped = read_all(TarSamples(path))
    assert samples == [Sample("1", PICTURES[1], ())]
    assert skipped == [("2.jpg", "too large")]


def test_tar_that_is_none(tmp_path: Path) -> None:
    for name, content in (("empty.tar", b""), ("page.tar", b"<html>" * 200), ("cut.tar.gz", b"\x1f\x8b\x08\0")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SourceError, match=f"{name} cannot be read as a tar"):
            list(TarSamples(path).samples())
    with pytest.raises(SourceError, match="No such file"):
        list(TarSamples(tmp_path / "gone.tar").samples())
    with pytest.raises(SourceError, match="missing file"):
        _ = TarSamples(tmp_path / "gone.tar").files


def test_tar_changed_since(tmp_path: Path) -> None:
    source = TarSamples(write_tar(tmp_path / "a.tar", [("1.jpg", PICTURES[1])]))
    assert source.read("1") == PICTURES[1]
    with pytest.raises(SourceError, match=r"a\.tar holds no picture 2; it has changed since"):
        source.read("2")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(SourceError, match="holds no picture 1"):
        source.read("1")
    (tmp_path / "a.tar").unlink()
    with pytest.raises(SourceError, match="holds no picture 1"):
        source.read("1")


# Parquet

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(path: Path, columns: dict[str, Any], row_group_size: int = 3) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_parquet_with_bytes_and_lists_of_texts(tmp_path: Path) -> None:
    captions = [[f"one {n}", f"two {n}"] for n in range(8)]
    keys = [f"k{n}" for n in range(8)]
    path = write_parquet(tmp_path / "a.parquet", {"key": keys, "image": PICTURES, "captions": captions})
    samples, skipped = read_all(ParquetSamples(path))
    assert samples == [Sample(f"k{n}", PICTURES[n], (f"one {n}", f"two {n}")) for n in range(8)]
    assert skipped == []
    assert_all_readable(ParquetSamples(path), samples)
    assert [file.file for file in ParquetSamples(path).files] == [path]


def test_parquet_as_the_hub_stores_it(tmp_path: Path) -> None:
    (tmp_path / "here.jpg").write_bytes(PICTURES[1])
    cells = [
        {"bytes": PICTURES[0], "path": "0.jpg"},
        {"bytes": None, "path": "here.jpg"},
        {"bytes": None, "path": "x.jpg"},
    ]
    columns = {"picture": pa.array(cells, STRUCT), "caption_0": ["a", "b", "c"], "caption_1": ["d", None, "f"]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    samples, skipped = read_all(ParquetSamples(path))
    assert samples == [Sample("1", PICTURES[0], ("a", "d")), Sample("2", tmp_path / "here.jpg", ("b",))]
    assert skipped == [("row 3", "missing file")]
    assert_all_readable(ParquetSamples(path), samples)


def test_parquet_null_cells(tmp_path: Path) -> None:
    columns = {
        "image": pa.array([PICTURES[0], None, b"", PICTURES[3], PICTURES[4]], pa.binary()),
        "captions": [["a"], ["b"], ["c"], None, [None, " "]],
    }
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=2)
    samples, skipped = read_all(ParquetSamples(path))
    assert samples == [Sample("1", PICTURES[0], ("a",)), Sample("4", PICTURES[3], ()), Sample("5", PICTURES[4], ())]
    assert skipped == [("row 2", "no picture"), ("row 3", "no picture")]
    assert_all_readable(ParquetSamples(path), samples)


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        (pa.array([30, 10, 20], pa.int64()), ["30", "10", "20"]),
        (pa.array([30, 30, 20], pa.int64()), ["1", "2", "3"]),
        (pa.array([30, None, 20], pa.int64()), ["1", "2", "3"]),
        (pa.array(["b", "a", ""]), ["b", "a", ""]),
        (pa.array([3.0, 2.0, 1.0]), ["1", "2", "3"]),
    ],
)
def test_parquet_keys_are_unique_or_row_numbers(tmp_path: Path, ids: pa.Array, keys: list[str]) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"id": ids, "image": PICTURES[:3]}, row_group_size=2)
    samples, skipped = read_all(ParquetSamples(path))
    assert [sample.key for sample in samples] == keys
    assert skipped == []
    assert_all_readable(ParquetSamples(path), samples)


def test_parquet_columns_are_named_by_a_person(tmp_path: Path) -> None:
    columns = {"image": PICTURES[:2], "mask": PICTURES[2:4], "caption": ["a", "b"], "prompt": ["c", "d"]}
    source = ParquetSamples(
        write_parquet(tmp_path / "a.parquet", columns), image_column="mask", text_columns=["prompt", "caption"]
    )
    assert read_all(source)[0] == [Sample("1", PICTURES[2], ("c", "a")), Sample("2", PICTURES[3], ("d", "b"))]


@pytest.mark.parametrize(
    ("columns", "chosen", "message"),
    [
        (
            {"image": [b"x"], "caption": ["a"]},
            {"image_column": "img"},
            "has no column img; its columns: image, caption",
        ),
        ({"image": [b"x"], "caption": ["a"]}, {"text_columns": ["alt"]}, "no column alt; its columns: image, caption"),
        ({"image": ["a.jpg"], "caption": ["a"]}, {}, "no column of pictures; its columns: image, caption"),
        ({"image": ["a.jpg"]}, {"image_column": "image"}, "column image of .* holds no pictures .*, but string"),
        ({"image": [b"x"], "n": [1]}, {"text_columns": ["n"]}, "column n of .* holds no texts .*, but int64"),
        ({"left": [b"x"], "right": [b"y"]}, {}, "may hold pictures: left, right; name one with --image-column"),
    ],
)
def test_parquet_without_such_a_column(
    tmp_path: Path, columns: dict[str, Any], chosen: dict[str, Any], message: str
) -> None:
    source = ParquetSamples(write_parquet(tmp_path / "a.parquet", columns), **chosen)
    with pytest.raises(SourceError, match=message):
        list(source.samples())


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([b"x"]), pa.array([b"y"])], names=["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="more than one column image"):
        list(ParquetSamples(tmp_path / "a.parquet").samples())


def test_parquet_with_a_damaged_row_group(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": PICTURES}, row_group_size=2)
    column = pq.read_metadata(path).row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    samples, skipped = read_all(ParquetSamples(path))
    assert samples == [Sample(str(n + 1), PICTURES[n], ()) for n in (0, 1, 4, 5, 6, 7)]
    assert skipped == [("rows 3 to 4", "damaged row group")]
    assert_all_readable(ParquetSamples(path), samples)
    with pytest.raises(SourceError, match=r"row 3 of .* cannot be read"):
        ParquetSamples(path).read("3")


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": PICTURES})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"a\.parquet cannot be read as Parquet"):
        list(ParquetSamples(path).samples())
    with pytest.raises(SourceError, match=r"b\.parquet cannot be read as Parquet"):
        list(ParquetSamples(tmp_path / "b.parquet").samples())


def test_parquet_read_finds_no_row(tmp_path: Path) -> None:
    source = ParquetSamples(write_parquet(tmp_path / "a.parquet", {"image": PICTURES}))
    for key in ("0", "9", "-1", "x"):
        with pytest.raises(SourceError, match=f"holds no picture {key}; it has changed since"):
            source.read(key)


def test_parquet_of_the_data_sets(data_dir: Path) -> None:
    source = ParquetSamples(data_dir / "dev-coco.parquet")
    rows = pq.read_table(data_dir / "dev-coco.parquet").to_pylist()
    samples, skipped = read_all(source)
    assert [(s.key, s.image) for s in samples] == [(row["key"], row["image"]) for row in rows]
    assert [s.texts for s in samples] == [
        tuple(dict.fromkeys(text.strip() for text in row["captions"])) for row in rows
    ]
    assert skipped == []
    assert source.read(rows[-1]["key"]) == rows[-1]["image"]


# COCO


def write_coco(folder: Path, images: Any, annotations: Any) -> Path:
    path = folder / "captions_val2017.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return path


def test_coco_captions(tmp_path: Path) -> None:
    root = tmp_path / "val2017"
    root.mkdir()
    for number in (1, 2):
        (root / f"{number}.jpg").write_bytes(PICTURES[number])
    images = [
        {"id": 11, "file_name": "1.jpg", "width": 24},
        {"id": 22, "file_name": "2.jpg"},
        {"id": 3, "file_name": "3.jpg"},
    ]
    annotations = [
        {"image_id": 22, "id": 1, "caption": "b\n"},
        {"image_id": 11, "id": 2, "caption": "a1"},
        {"image_id": 11, "id": 3, "caption": "a2"},
        {"image_id": 99, "id": 4, "caption": "of nothing"},
        {"image_id": 11, "id": 5, "caption": None},
    ]
    images += [{"id": 11, "file_name": "2.jpg"}, {"file_name": "2.jpg"}]
    path = write_coco(tmp_path, images, annotations)
    source = CocoCaptions(path, root)
    samples, skipped = read_all(source)
    assert samples == [Sample("11", root / "1.jpg", ("a1", "a2")), Sample("22", root / "2.jpg", ("b",))]
    assert skipped == [
        ("images[3]", "duplicate key"),
        ("images[4]", "incomplete entry"),
        ("annotations[3]", "no picture"),
        ("annotations[4]", "incomplete entry"),
        ("image 3", "missing file"),
    ]
    assert_all_readable(CocoCaptions(path, root), samples)
    assert [file.file for file in source.files] == [path]
    with pytest.raises(SourceError, match="lists no image 5"):
        source.read("5")
    with pytest.raises(SourceError, match=r"3\.jpg: No such file or directory; it has changed since"):
        source.read("3")


def test_coco_pictures_lie_beside_the_json_unless_told(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(PICTURES[1])
    path = write_coco(tmp_path, [{"id": 1, "file_name": "1.jpg"}], [])
    assert read_all(CocoCaptions(path))[0] == [Sample("1", tmp_path / "1.jpg", ())]
    with pytest.raises(SourceError, match=r"gone is no folder of pictures; name it with --root"):
        list(CocoCaptions(path, tmp_path / "gone").samples())


def test_coco_json_of_another_kind(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [], [{"image_id": 1, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(SourceError, match="holds no captions; its annotations have bbox, image_id"):
        list(CocoCaptions(path).samples())
    for content, message in (
        ("[1, 2]", "is no JSON of COCO"),
        ('{"images": {}}', "is no JSON of COCO"),
        ('{"images": [', "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
    ):
        path.write_text(content)
        with pytest.raises(SourceError, match=message):
            list(CocoCaptions(path).samples())


# Hugging Face


@pytest.fixture(scope="module")
def data_set() -> datasets.Dataset:
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": datasets.Image(), "caption": [datasets.Value("string")]}
    )
    images = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(PICTURES)]
    columns = {
        "id": [f"k{n}" for n in range(8)],
        "image": images,
        "caption": [[f"one {n}", f"two {n}"] for n in range(8)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def expected(keys: Sequence[str]) -> list[Sample]:
    return [Sample(key, PICTURES[n], (f"one {n}", f"two {n}")) for n, key in enumerate(keys)]


def test_hugging_face_saved_to_disk(tmp_path: Path, data_set: datasets.Dataset) -> None:
    data_set.save_to_disk(tmp_path / "one", num_shards=2)
    assert holds_samples(tmp_path / "one")
    (source,) = open_samples(str(tmp_path / "one"))
    samples, skipped = read_all(source)
    assert samples == expected([f"k{n}" for n in range(8)])
    assert skipped == []
    assert_all_readable(open_samples(str(tmp_path / "one"))[0], samples)
    assert source.name == str(tmp_path / "one")
    assert [file.path for file in source.files] == [
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
        "dataset_info.json",
        "state.json",
    ]
    with pytest.raises(SourceError, match="holds no picture k8"):
        source.read("k8")


def test_hugging_face_splits_saved_to_disk(
    tmp_path: Path, data_set: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "two"
    datasets.DatasetDict({"train": data_set, "test": data_set.select([0, 1, 1])}).save_to_disk(folder)
    train, test = open_samples(str(folder))
    assert (train.name, test.name) == (str(folder / "train"), str(folder / "test"))
    assert read_all(train)[0] == expected([f"k{n}" for n in range(8)])
    # Two rows are of one id.
    assert [(sample.key, sample.image) for sample in read_all(test)[0]] == [
        ("1", PICTURES[0]),
        ("2", PICTURES[1]),
        ("3", PICTURES[1]),
    ]
    (source,) = open_samples(f"hf:{folder}:test")
    assert source.name == test.name
    monkeypatch.chdir(tmp_path)
    assert [split.name for split in open_samples("hf:two")] == [train.name, test.name]
    assert open_samples(train.name)[0].read("k3") == PICTURES[3]
    with pytest.raises(SourceError, match="has no split dev; its splits: train, test"):
        open_samples(f"hf:{folder}:dev")


def test_hugging_face_parquet_files_as_on_the_hub(tmp_path: Path, data_set: datasets.Dataset) -> None:
    (tmp_path / "data").mkdir()
    for shard in (0, 1):
        rows = data_set.shard(2, shard, contiguous=True)
        rows.to_parquet(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet")
    data_set.select([7]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    train, test = open_samples(f"hf:{tmp_path}")
    assert (train.name, test.name) == (f"hf:{tmp_path}:train", f"hf:{tmp_path}:test")
    samples, skipped = read_all(train)
    # Of a stream nobody knows whether the ids to come are new.
    assert samples == expected([str(n + 1) for n in range(8)])
    assert skipped == []
    assert_all_readable(open_samples(f"hf:{tmp_path}:train")[0], samples)
    with pytest.raises(SourceError, match="holds no picture 9"):
        train.read("9")
    (file,) = open_samples(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    assert read_all(file)[0] == [Sample("k7", PICTURES[7], ("one 7", "two 7"))]


# datasets leaves the table of captions open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hugging_face_folder_and_archive_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    captions = "file_name,text\n1.jpg,one\n2.jpg,two\n"
    (folder / "metadata.csv").write_text(captions)
    archive = tmp_path / "archive"
    archive.mkdir()
    with zipfile.ZipFile(archive / "train.zip", "w") as pictures:
        pictures.writestr("metadata.csv", captions)
        for number in (1, 2):
            (folder / f"{number}.jpg").write_bytes(PICTURES[number])
            pictures.writestr(f"{number}.jpg", PICTURES[number])
    (source,) = open_samples(f"hf:{folder}:train")
    assert read_all(source)[0] == [Sample("1", folder / "1.jpg", ("one",)), Sample("2", folder / "2.jpg", ("two",))]
    assert source.read("2") == PICTURES[2]
    (source,) = open_samples(f"hf:{archive}:train")
    samples, skipped = read_all(source)
    assert samples == [Sample("1", PICTURES[1], ("one",)), Sample("2", PICTURES[2], ("two",))]
    assert skipped == []
    assert_all_readable(source, samples)


def test_hugging_face_null_and_missing_pictures(tmp_path: Path) -> None:
    cells = [None, {"bytes": None, "path": "zip://1.jpg::/nowhere.zip"}, {"bytes": PICTURES[2], "path": None}]
    pq.write_table(pa.table({"image": pa.array(cells, STRUCT), "caption": ["a", "b", "c"]}), tmp_path / "a.parquet")
    (source,) = open_samples(f"hf:{tmp_path}")
    samples, skipped = read_all(source)
    assert samples == [Sample("3", PICTURES[2], ("c",))]
    assert skipped == [("row 1", "no picture"), ("row 2", "missing file")]


def test_hugging_face_stream_that_breaks(tmp_path: Path, data_set: datasets.Dataset) -> None:
    for shard in (0, 1):
        data_set.shard(2, shard, contiguous=True).to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    (source,) = open_samples(f"hf:{tmp_path}")
    second = tmp_path / "train-00001-of-00002.parquet"
    second.write_bytes(second.read_bytes()[:-100])
    samples, skipped = read_all(source)
    assert samples == expected(["1", "2", "3", "4"])
    assert skipped == [("from row 5", "unreadable rest")]


def test_hugging_face_missing_column_split_or_folder(tmp_path: Path, data_set: datasets.Dataset) -> None:
    data_set.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(SourceError, match="has no column photo; its columns: id, image, caption"):
        list(open_samples(f"hf:{tmp_path}", image_column="photo")[0].samples())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"the data set .*empty cannot be opened"):
        open_samples(f"hf:{tmp_path / 'empty'}")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(SourceError, match="saved cannot be read as a data set"):
        open_samples(str(tmp_path / "saved"))


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError) as caught:
        open_samples("hf:someone/pictures:train")
    assert caught.value.message.startswith("the data set someone/pictures could not be fetched from the hub (")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy == "check the name and the network, or give a local folder"


def test_hub_is_asked_for_the_newest_commit_and_streams(
    tmp_path: Path, data_set: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set.to_parquet(tmp_path / "train.parquet")
    asked: list[tuple[str, str | None, bool]] = []
    load = datasets.load_dataset

    def load_copy(name: str, *, revision: str | None, streaming: bool) -> Any:
        asked.append((name, revision, streaming))
        return load(str(tmp_path), streaming=streaming)

    monkeypatch.setattr(hf, "_newest_revision", lambda name: "0f" * 20)
    monkeypatch.setattr(datasets, "load_dataset", load_copy)
    (source,) = open_samples("hf:someone/pictures:train")
    assert asked == [("someone/pictures", "0f" * 20, True)]
    assert source.name == "hf:someone/pictures:train"
    assert source.files == ()
    assert read_all(source)[0] == expected([str(n + 1) for n in range(8)])


def test_without_the_package_datasets() -> None:
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from xsearch.errors import SourceError\n"
        "from xsearch.sources.containers import open_samples\n"
        "try: open_samples('hf:mnist')\n"
        "except SourceError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "a package of Hugging Face data sets is missing here (datasets); pip install 'xsearch[datasets]'\n"
    )


# What opens what


def test_looking_for_containers_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from xsearch.sources.containers import holds_samples, open_samples\n"
        "assert holds_samples(Path('a.tar.gz')) and not holds_samples(Path('a.jpg'))\n"
        "print([name for name in ('pyarrow', 'datasets', 'torch', 'numpy.random', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_holds_samples(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "A.TAR", [])
    with_pictures = write_parquet(tmp_path / "pictures.parquet", {"image": PICTURES})
    with_paths = write_parquet(tmp_path / "paths.parquet", {"path": ["a.jpg"], "caption": ["a"]})
    vectors = write_parquet(
        tmp_path / "shard.parquet", {"vector": pa.array([b"1234"], pa.binary(4)), "path": ["a.jpg"]}
    )
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.json").write_text("{}")
    assert [holds_samples(path) for path in (tar, with_pictures)] == [True, True]
    others = [
        with_paths,
        vectors,
        tmp_path / "broken.parquet",
        tmp_path / "a.json",
        tmp_path,
        tmp_path / "gone.parquet",
    ]
    assert [holds_samples(path) for path in others] == [False] * 6


def test_open_samples_takes_patterns_in_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_tar(tmp_path / f"{number:05d}.tar", [(f"{number}.jpg", PICTURES[1])])
    sources = open_samples(str(tmp_path / "*.tar"))
    assert [source.name for source in sources] == [str(tmp_path / f"{number:05d}.tar") for number in (1, 2, 10)]
    # A file whose name looks like a pattern is that file.
    strange = write_tar(tmp_path / "[a].tar", [])
    assert [source.name for source in open_samples(str(strange))] == [str(strange)]


def test_open_samples_coco(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(PICTURES[1])
    path = write_coco(tmp_path, [{"id": 1, "file_name": "1.jpg"}], [])
    (source,) = open_samples(f"coco:{path}", root=tmp_path)
    assert read_all(source)[0] == [Sample("1", tmp_path / "1.jpg", ())]
    with pytest.raises(SourceError, match=r"gone\.json: missing file"):
        open_samples(f"coco:{tmp_path / 'gone.json'}")


def test_open_samples_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for spec, message in (
        (tmp_path / "*.tar", "is not there"),
        (tmp_path / "a.txt", "is no tar"),
        (tmp_path, "is no tar"),
    ):
        with pytest.raises(SourceError, match=message):
            open_samples(str(spec))


# Embeddings


def unit_vectors(rows: int, dim: int = 16) -> NDArray[np.float32]:
    vectors = np.random.default_rng(rows).standard_normal((rows, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_pair(folder: Path, vectors: NDArray[Any], number: str = "0") -> tuple[Path, Path]:
    """As clip-retrieval lays them out."""
    npy, meta = folder / "img_emb" / f"img_emb_{number}.npy", folder / "metadata" / f"metadata_{number}.parquet"
    npy.parent.mkdir(exist_ok=True)
    meta.parent.mkdir(exist_ok=True)
    np.save(npy, vectors)
    paths = [f"{number}/{row}.jpg" for row in range(len(vectors))]
    pq.write_table(
        pa.table({"image_path": paths, "caption": [f"of {path}" for path in paths]}), meta, row_group_size=5000
    )
    return npy, meta


def read_blocks(files: Sequence[EmbeddingFiles]) -> tuple[NDArray[Any], pa.Table, list[Skipped]]:
    entries = [entry for pair in files for entry in read_embeddings(pair.vectors, pair.metadata)]
    blocks = [entry for entry in entries if isinstance(entry, EmbeddingBlock)]
    vectors = np.concatenate([block.vectors for block in blocks])
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    return vectors, pa.concat_tables(block.metadata for block in blocks), skipped


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_embeddings_of_clip_retrieval(tmp_path: Path, dtype: str) -> None:
    rows = 20_000
    vectors = unit_vectors(rows).astype(dtype)
    write_pair(tmp_path, vectors[:11_000], "2")
    write_pair(tmp_path, vectors[11_000:], "10")
    files = embedding_files(tmp_path)
    assert [pair.vectors.name for pair in files] == ["img_emb_2.npy", "img_emb_10.npy"]
    assert [pair.metadata.name for pair in files] == ["metadata_2.parquet", "metadata_10.parquet"]
    read, metadata, skipped = read_blocks(files)
    assert read.dtype == vectors.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read, vectors)
    assert metadata["image_path"].to_pylist() == [f"2/{n}.jpg" for n in range(11_000)] + [
        f"10/{n}.jpg" for n in range(9000)
    ]
    assert metadata["caption"][-1].as_py() == "of 10/8999.jpg"
    assert skipped == []


def test_embeddings_of_other_layouts(tmp_path: Path) -> None:
    npy, meta = write_pair(tmp_path, unit_vectors(3))
    assert embedding_files(npy, meta) == [EmbeddingFiles(npy, meta)]
    assert embedding_files(npy.parent, meta.parent) == [EmbeddingFiles(npy, meta)]
    with pytest.raises(SourceError, match=r"are of is not said; name it with --meta"):
        embedding_files(npy)
    with pytest.raises(SourceError, match=r"lacks metadata_0\.parquet"):
        embedding_files(npy.parent)
    npy.unlink()
    with pytest.raises(SourceError, match=r"lacks img_emb_0\.npy"):
        embedding_files(tmp_path)
    meta.unlink()
    with pytest.raises(SourceError, match=r"holds no img_emb_0\.npy"):
        embedding_files(tmp_path)


def test_embeddings_without_a_direction(tmp_path: Path) -> None:
    vectors = unit_vectors(6)
    vectors[1, 3], vectors[2], vectors[4, 0] = np.nan, 0, np.inf
    npy, meta = write_pair(tmp_path, vectors)
    read, metadata, skipped = read_blocks([EmbeddingFiles(npy, meta)])
    np.testing.assert_array_equal(read, vectors[[0, 3, 5]])
    assert metadata["image_path"].to_pylist() == ["0/0.jpg", "0/3.jpg", "0/5.jpg"]
    assert skipped == [
        Skipped(f"{npy} row 2", "no vector", "not finite"),
        Skipped(f"{npy} row 3", "no vector", "all zero"),
        Skipped(f"{npy} row 5", "no vector", "not finite"),
    ]


def test_embeddings_that_do_not_match(tmp_path: Path) -> None:
    _, meta = write_pair(tmp_path, unit_vectors(4))
    np.save(tmp_path / "five.npy", unit_vectors(5))
    with pytest.raises(SourceError, match=r"five\.npy has 5 rows, .*metadata_0\.parquet has 4: one each is wanted"):
        list(read_embeddings(tmp_path / "five.npy", meta))


def _cut(path: Path) -> None:
    np.save(path, unit_vectors(4))
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot be read as vectors .*No such file"),
        (lambda path: path.write_bytes(b""), "cannot be read as vectors"),
        (lambda path: path.write_bytes(b"rubbish" * 9), "cannot be read as vectors"),
        (_cut, "cannot be read as vectors"),
        (lambda path: np.save(path, np.array([{"a": 1}], object), allow_pickle=True), "cannot be read as vectors"),
        (lambda path: np.save(path, np.ones(4, np.float32)), r"holds no rows of floats, but float32 \(4,\)"),
        (lambda path: np.save(path, np.ones((4, 2), np.int64)), r"holds no rows of floats, but int64 \(4, 2\)"),
    ],
)
def test_embeddings_that_are_none(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    _, meta = write_pair(tmp_path, unit_vectors(4))
    write(tmp_path / "v.npy")
    with pytest.raises(SourceError, match=message):
        list(read_embeddings(tmp_path / "v.npy", meta))


def test_embeddings_with_metadata_that_is_none(tmp_path: Path) -> None:
    npy, meta = write_pair(tmp_path, unit_vectors(4))
    meta.write_bytes(meta.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"metadata_0\.parquet cannot be read as Parquet"):
        list(read_embeddings(npy, meta))


# All finite float16 values, so that what is exact for these is exact for all.
ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
ALL_HALVES = ALL_HALVES[np.isfinite(ALL_HALVES)].reshape(-1, 64)


def export(path: Path, form: ExportFormat, vectors: NDArray[Any] = ALL_HALVES) -> list[str]:
    """Write vectors in two blocks with metadata that is hard to write, and return that of each row."""
    texts = [f'row {row}, "quoted"\nand café' for row in range(len(vectors))]
    table = pa.table({"text": texts, "t_start_s": pa.array([None, *np.linspace(0, 1, len(texts) - 1)], pa.float64())})
    middle = len(vectors) // 3
    blocks = [EmbeddingBlock(vectors[:middle], table[:middle]), EmbeddingBlock(vectors[middle:], table[middle:])]
    assert write_export(path, form, iter(blocks)) == len(vectors)
    return texts


def assert_same_bits(vectors: NDArray[np.float16], expected: NDArray[np.float16] = ALL_HALVES) -> None:
    np.testing.assert_array_equal(vectors.view(np.uint16), expected.view(np.uint16))


def test_export_npy_is_read_back_to_the_bit(tmp_path: Path) -> None:
    vectors = ALL_HALVES[(ALL_HALVES != 0).any(axis=1)]
    texts = export(tmp_path / "out", ExportFormat.NPY, vectors)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["img_emb_0.npy", "metadata_0.parquet"]
    read, metadata, skipped = read_blocks(embedding_files(tmp_path / "out"))
    assert_same_bits(read, vectors)
    assert metadata["text"].to_pylist() == texts
    assert skipped == []


def test_export_parquet(tmp_path: Path) -> None:
    texts = export(tmp_path / "out.parquet", ExportFormat.PARQUET)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 64)
    assert_same_bits(table["vector"].combine_chunks().flatten().to_numpy().astype(np.float16).reshape(-1, 64))
    assert table["text"].to_pylist() == texts
    assert table["t_start_s"][0].as_py() is None


def test_export_csv(tmp_path: Path) -> None:
    texts = export(tmp_path / "out.csv", ExportFormat.CSV)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "t_start_s", "vector"]
    assert [row["text"] for row in rows] == texts
    assert (rows[0]["t_start_s"], rows[1]["t_start_s"]) == ("", "0.0")
    # JSON knows one zero: the sign of the other is lost.
    np.testing.assert_array_equal(np.array([json.loads(row["vector"]) for row in rows], np.float16), ALL_HALVES)


def test_export_lance(tmp_path: Path) -> None:
    lance = pytest.importorskip("lance", reason="needs `pip install 'xsearch[lance]'`")
    texts = export(tmp_path / "out.lance", ExportFormat.LANCE)
    table = lance.dataset(str(tmp_path / "out.lance")).to_table()
    assert_same_bits(table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 64))
    assert table["text"].to_pylist() == texts


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32)))
def test_export_rounds_float32_as_numpy_does(
    tmp_path_factory: pytest.TempPathFactory, vectors: NDArray[np.float32]
) -> None:
    path = tmp_path_factory.mktemp("export") / "out.parquet"
    export(path, ExportFormat.PARQUET, vectors)
    read = pq.read_table(path)["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    np.testing.assert_array_equal(read, vectors.astype(np.float16).astype(np.float32))


def test_export_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is nothing to export"):
        write_export(tmp_path / "out", ExportFormat.NPY, iter(()))
    assert not (tmp_path / "out").exists()
