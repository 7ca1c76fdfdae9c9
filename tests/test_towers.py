"""Training of whole towers, on tiny models and real photographs; and a decoder that learns to say what it saw."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("open_clip", reason="needs the extra [clip]: open_clip")

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file

from xsearch.cli.app import run
from xsearch.encoders import get_encoder, openclip
from xsearch.encoders.openclip import OpenClipEncoder
from xsearch.errors import EncoderUnavailable, XSearchError
from xsearch.learning import towers
from xsearch.learning.captioning import WrittenCaptions
from xsearch.learning.losses import captioning
from xsearch.learning.metrics import corpus_bleu
from xsearch.learning.pairs import PairSet, take_pairs
from xsearch.learning.towers import Method, TowerOptions, train_towers
from xsearch.learning.training import CHECKPOINT, Epoch, Objective
from xsearch.media.images import open_image
from xsearch.survey import Layout

CAPTIONS = Path(__file__).parents[1] / "demo" / "captions.csv"
SIDE, WIDTH = 32, 64
VISION = {"image_size": SIDE, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": WIDTH, "heads": 4, "layers": 1}
CLIP = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
POOL = {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
COCA = {
    "embed_dim": WIDTH,
    "custom_text": True,
    "vision_cfg": VISION | POOL,
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"width": WIDTH, "heads": 4, "layers": 2, "vocab_size": 49408, "context_length": 24},
}
QUICK = TowerOptions(Method.FULL, epochs=3, batch=12, micro_batch=5, rate=1e-3, patience=9)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openclip, "_cpu_has_amx", lambda: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    for name, config in {"tower-clip": CLIP, "tower-coca": COCA}.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    for name in ("tower-clip", "tower-coca"):
        torch.manual_seed(1)
        model = open_clip.create_model(name)
        if name == "tower-coca":  # open_clip leaves its decoder's last matrix as the memory was
            torch.nn.init.normal_(model.text_decoder.text_projection, std=WIDTH**-0.5)
        torch.save(model.state_dict(), folder / f"{name}.pt")
    return folder


def opened(folder: Path, name: str) -> OpenClipEncoder:
    return OpenClipEncoder.open(f"openclip:{name}/{folder / name}.pt", device="cpu")


@pytest.fixture(scope="module")
def clip(folder: Path) -> OpenClipEncoder:
    return opened(folder, "tower-clip")


@pytest.fixture(scope="module")
def coca(folder: Path) -> OpenClipEncoder:
    return opened(folder, "tower-coca")


@pytest.fixture(scope="module")
def pairs(photos: Path, folder: Path, clip: OpenClipEncoder) -> PairSet:
    """The demo's photographs and captions, as small as the models' eyes are, as they are read again and again."""
    with CAPTIONS.open(newline="") as table:
        named = {row["path"] for row in csv.DictReader(table)}
    for name in named:
        small = folder / "photos" / name
        small.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(open_image(photos / name, SIDE)).resize((2 * SIDE, 2 * SIDE)).save(small)
    return take_pairs([CAPTIONS], folder / "pairs", clip, layout=Layout(root=folder / "photos"))


def some(pairs: PairSet, n: int) -> PairSet:
    return pairs.subset(np.arange(n))


def gradients(
    pairs: PairSet, base: OpenClipEncoder, options: TowerOptions, micro_batch: int
) -> tuple[float, dict[str, torch.Tensor]]:
    state = towers._State(towers._Shown(pairs, base), base, replace(options, micro_batch=micro_batch))
    state.model.eval()
    pictures = np.arange(len(pairs.images))
    loss = state.add_gradients(pictures, np.array([np.flatnonzero(pairs.owner == one)[0] for one in pictures]))
    return loss, {name: one.grad for name, one in state.model.named_parameters() if one.grad is not None}


# The loss and its gradients


def test_captioning_is_cross_entropy_without_padding() -> None:
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, 4, 6, 0], [2, 0, 0, 0]])
    expected = torch.nn.functional.cross_entropy(logits.permute(0, 2, 1), labels, ignore_index=0, reduction="none")
    torch.testing.assert_close(captioning(logits, labels, 0), expected.sum(dim=1))


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("method", Method)
def test_parts_give_the_gradients_of_the_whole(
    pairs: PairSet, coca: OpenClipEncoder, objective: Objective, method: Method
) -> None:
    options = TowerOptions(method, objective)
    whole, expected = gradients(some(pairs, 7), coca, options, micro_batch=7)
    parts, found = gradients(some(pairs, 7), coca, options, micro_batch=2)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert found.keys() == expected.keys()
    assert sum(float(gradient.abs().sum()) for gradient in expected.values()) > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_what_is_dropped_by_chance_is_dropped_again(pairs: PairSet, clip: OpenClipEncoder) -> None:
    # With one part, the first pass is the second: the gradient is the loss's own only if both drop the same.
    state = towers._State(towers._Shown(some(pairs, 6), clip), clip, QUICK)
    state.model.visual.patch_dropout = torch.nn.Dropout(0.5)
    state.model.train()
    kept: list[torch.Tensor] = []
    state.model.visual.patch_dropout.register_forward_hook(lambda module, given, dropped: kept.append(dropped == 0))
    pictures = np.arange(6)
    state.add_gradients(pictures, np.array([np.flatnonzero(pairs.owner == one)[0] for one in pictures]))
    first, second = kept[: len(kept) // 2], kept[len(kept) // 2 :]
    assert len(first) == 2
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(first[0][:1], first[1][:1])


# Training


@pytest.mark.parametrize("method", Method)
def test_towers_learn_and_the_folder_is_an_encoder(
    photos: Path, pairs: PairSet, clip: OpenClipEncoder, tmp_path: Path, method: Method
) -> None:
    seen: list[Epoch] = []
    options = replace(QUICK, method=method, epochs=12, batch=13, micro_batch=7, rate=3e-3, held_out=0.0)
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    trained = train_towers(pairs, clip, tmp_path / "out", options, seen.append)
    assert trained.share > 0
    assert trained.held_out == 0
    assert trained.result["text to image recall@1"] > trained.base["text to image recall@1"] + 0.3
    assert seen == list(trained.epochs)
    assert seen[-1].loss < seen[0].loss / 2
    for name, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    encoder = get_encoder(str(tmp_path / "out"))
    assert encoder.spec.name == f"openclip:tower-clip/{tmp_path / 'out' / 'model.safetensors'}"
    assert encoder.spec.fingerprint != clip.spec.fingerprint
    # What is written is what was measured, and has the base's names and shapes.
    images = [open_image(item.file, encoder.spec.image_px) for item in pairs.pictures()]
    cosines = encoder.encode_texts(pairs.sentences) @ encoder.encode_images(images).T
    assert np.mean(cosines.argmax(axis=1) == pairs.owner) == pytest.approx(
        trained.result["text to image recall@1"], abs=0.03
    )
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: one.shape for name, one in written.items()} == {name: one.shape for name, one in before.items()}
    if method is Method.LORA:
        changed = (
            written["visual.transformer.resblocks.0.mlp.c_fc.weight"]
            - before["visual.transformer.resblocks.0.mlp.c_fc.weight"]
        )
        assert 1 <= int(torch.linalg.matrix_rank(changed, rtol=1e-3)) <= options.rank
        assert torch.equal(written["token_embedding.weight"], before["token_embedding.weight"])


def test_nothing_is_kept_of_what_did_not_help(pairs: PairSet, clip: OpenClipEncoder, tmp_path: Path) -> None:
    trained = train_towers(pairs, clip, tmp_path, replace(QUICK, rate=1e-12))
    assert trained.share == 0
    assert trained.result == trained.base
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, clip.model.state_dict()[name])


def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(
    pairs: PairSet, clip: OpenClipEncoder, tmp_path: Path
) -> None:
    whole = train_towers(pairs, clip, tmp_path / "whole", QUICK)

    def end(line: Epoch) -> None:
        if line.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_towers(pairs, clip, tmp_path / "ended", QUICK, end)
    again: list[int] = []
    resumed = train_towers(pairs, clip, tmp_path / "ended", QUICK, lambda line: again.append(line.epoch))
    assert again == [3]
    assert [line.loss for line in resumed.epochs] == pytest.approx([line.loss for line in whole.epochs], rel=1e-5)
    assert not (tmp_path / "ended" / CHECKPOINT).exists()


def test_a_checkpoint_of_another_training_is_refused(pairs: PairSet, clip: OpenClipEncoder, tmp_path: Path) -> None:
    def end(line: Epoch) -> None:
        if line.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_towers(pairs, clip, tmp_path, QUICK, end)
    with pytest.raises(XSearchError, match="is of a training with other pairs, options or base"):
        train_towers(pairs, clip, tmp_path, replace(QUICK, method=Method.LORA))
    (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(XSearchError, match="cannot be read"):
        train_towers(pairs, clip, tmp_path, QUICK)


def test_a_loss_that_is_no_number_ends_it_and_what_was_there_stays(
    pairs: PairSet, clip: OpenClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"an earlier one")
    loss, calls = towers.contrastive, 0

    def bad(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return loss(*arguments) * (float("nan") if calls > 3 else 1)

    monkeypatch.setattr(towers, "contrastive", bad)
    with pytest.raises(XSearchError, match="the loss is not a number any more in epoch 2"):
        train_towers(pairs, clip, tmp_path, QUICK)
    assert (tmp_path / "model.safetensors").read_bytes() == b"an earlier one"
    assert len(torch.load(tmp_path / CHECKPOINT, weights_only=True)["log"]) == 1


def test_weights_of_another_architecture_are_refused(
    folder: Path, pairs: PairSet, clip: OpenClipEncoder, tmp_path: Path
) -> None:
    train_towers(pairs, clip, tmp_path, replace(QUICK, epochs=1))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "tower-coca"}))
    with pytest.raises(EncoderUnavailable, match="does not load as tower-coca"):
        get_encoder(str(tmp_path))
    with pytest.raises(XSearchError, match="has no decoder that could learn to write"):
        train_towers(pairs, clip, tmp_path, replace(QUICK, objective=Objective.CAPTION))


# The decoder


def test_a_decoder_learns_to_say_what_it_saw(
    photos: Path, pairs: PairSet, coca: OpenClipEncoder, tmp_path: Path
) -> None:
    first = np.array([np.flatnonzero(pairs.owner == picture)[0] for picture in range(32)])
    learned = replace(pairs, images=pairs.images[:32], texts=pairs.texts[first], owner=np.arange(32))
    options = TowerOptions(
        Method.FULL, Objective.CAPTION, epochs=30, batch=8, micro_batch=8, rate=4e-3, decay=0.0, held_out=0.0
    )
    trained = train_towers(learned, coca, tmp_path, options)
    assert trained.share == 1
    encoder = get_encoder(str(tmp_path))
    pictures = [open_image(item.file, encoder.spec.image_px) for item in learned.pictures()]
    truths = [[text] for text in learned.sentences]
    untrained = [caption.text if caption else "" for caption in WrittenCaptions(coca).caption(pictures[:4])]
    assert corpus_bleu(untrained, truths[:4]) < 5
    for how in ({"beams": 4}, {"nucleus": 0.1}):
        said = [caption.text if caption else "" for caption in WrittenCaptions(encoder, **how).caption(pictures)]
        assert corpus_bleu(said, truths) > 60, said[:5]


# The command


def test_the_command(folder: Path, pairs: PairSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = f"openclip:tower-coca/{folder / 'tower-coca.pt'}", tmp_path / "tuned"
    source = ("train", str(CAPTIONS), "--root", str(folder / "photos"), "--out", str(out), "--base")
    quick = ("--epochs", "1", "--batch", "16", "--micro-batch", "8")
    assert run([*source, base, "--method", "lora", "--objective", "multitask", *quick, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == {"training": 30, "held_out": 8}
    assert told["epochs"] == 1
    assert told["held_out"]["base"]["mean log-probability of a token"] < 0
    assert "<svg" in (out / "report.html").read_text()
    assert run([*source, base, "--method", "full", "--held-out", "0", *quick]) == 0
    shown = capsys.readouterr()
    assert "38 pictures learned from, 0 held out" in shown.out
    assert "no pictures were held out" in shown.err
    photo = str(next((folder / "photos").rglob("*.jpg")))
    assert run(["caption", photo, "--model", str(out), "--beams", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{photo}: ")
    assert f"written by openclip:tower-coca/{out / 'model.safetensors'}" in shown.err
    assert run(["index", str(folder / "photos"), "--model", str(out), "--data", str(tmp_path / "data")]) == 0
    for arguments, message in (
        ((base, "--method", "magic"), "there is no method 'magic'; name one of head, lora, full"),
        (("builtin", "--method", "lora"), "the towers of builtin cannot be trained"),
        (("builtin", "--objective", "caption"), "a head has no decoder"),
        (
            (f"openclip:tower-clip/{folder / 'tower-clip.pt'}", "--method", "full", "--objective", "caption"),
            "no decoder",
        ),
    ):
        with pytest.raises(XSearchError, match=message):
            run([*source, *arguments])
