"""One encoder on several devices: order, balance, errors, and that all compute at the same time."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeEncoder, living, picture
from xsearch.encoders import framing_apart, get_encoder
from xsearch.encoders.framing import Framing
from xsearch.encoders.shared import SharedEncoder, shares
from xsearch.errors import EncoderUnavailable
from xsearch.indexer import index
from xsearch.library import Library
from xsearch.types import Embeddings, RGBImage

PATIENCE_S = 30


class Failing(FakeEncoder):
    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        raise ValueError(f"a vector of {len(images)} is not finite")


class Meeting(FakeEncoder):
    """Encodes when the other device does, too."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self._barrier = barrier

    def encode_images(self, images: Sequence[RGBImage]) -> Embeddings:
        self._barrier.wait(PATIENCE_S)
        return super().encode_images(images)


def images(n: int) -> list[RGBImage]:
    return list(np.random.default_rng(n).integers(0, 256, (n, 12, 16, 3), np.uint8))


@given(st.integers(0, 10_000), st.integers(1, 16))
def test_shares_are_all_inputs_in_order_and_even(n: int, devices: int) -> None:
    found = shares(n, devices)
    assert [at for share in found for at in range(n)[share]] == list(range(n))
    sizes = [len(range(n)[share]) for share in found]
    assert len(sizes) == devices
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_vectors_come_in_the_order_of_the_pictures_and_both_devices_take_half(n: int) -> None:
    devices = [FakeEncoder(), FakeEncoder()]
    shared, alone = SharedEncoder(devices), FakeEncoder()
    np.testing.assert_array_equal(shared.encode_images(images(n)), alone.encode_images(images(n)))
    assert sorted(device.pictures_encoded for device in devices) == [n // 2, n - n // 2]
    texts = [f"text {i}" for i in range(n)]
    np.testing.assert_array_equal(shared.encode_texts(texts), alone.encode_texts(texts))
    assert devices[0].texts_encoded + devices[1].texts_encoded == texts


def test_nothing_in_nothing_out() -> None:
    shared = SharedEncoder([FakeEncoder(), FakeEncoder()])
    assert shared.encode_images([]).shape == shared.encode_texts([]).shape == (0, shared.spec.dim)


def test_devices_compute_at_the_same_time() -> None:
    barrier = threading.Barrier(2)
    shared = SharedEncoder([Meeting(barrier), Meeting(barrier)])
    assert shared.encode_images(images(4)).shape == (4, shared.spec.dim)


def test_an_error_on_one_device_is_the_error_of_the_batch_when_all_have_ended() -> None:
    first, last = FakeEncoder(), FakeEncoder()
    with pytest.raises(ValueError, match="a vector of 3 is not finite"):
        SharedEncoder([first, Failing(), last]).encode_images(images(9))
    assert (first.pictures_encoded, last.pictures_encoded) == (3, 3)


def test_a_batch_fills_all_devices_by_the_least_of_them() -> None:
    shared = SharedEncoder([FakeEncoder(batch_size=8), FakeEncoder(batch_size=4), FakeEncoder(batch_size=16)])
    assert shared.batch_size == 12


def test_pictures_are_framed_apart_where_the_devices_want_it() -> None:
    class OnGpu(FakeEncoder):
        framing_apart = Framing(8, 8, "squash", "bicubic")

    assert framing_apart(SharedEncoder([OnGpu(), OnGpu()])) == OnGpu.framing_apart
    assert framing_apart(SharedEncoder([FakeEncoder(), FakeEncoder()])) is None


def test_a_library_made_on_two_devices_is_that_of_one(tmp_path: Path) -> None:
    for seed in range(37):
        picture(tmp_path / f"photos/{seed:02}.png", seed)
    devices = [FakeEncoder(), FakeEncoder()]
    index([tmp_path / "photos"], tmp_path / "two", SharedEncoder(devices))
    index([tmp_path / "photos"], tmp_path / "one", FakeEncoder())
    two, one = (living(Library.open(tmp_path / name)) for name in ("two", "one"))
    assert list(two) == list(one)
    for name, vector in one.items():
        np.testing.assert_array_equal(two[name], vector)
    assert abs(devices[0].pictures_encoded - devices[1].pictures_encoded) <= 3  # batches of 16, 16 and 5


def test_an_encoder_without_torch_names_the_only_device_it_knows() -> None:
    assert get_encoder("builtin", "cpu").spec.name == "builtin"
    with pytest.raises(EncoderUnavailable, match="builtin computes on the CPU alone, not on cuda; leave --device out"):
        get_encoder("builtin", "cuda")
