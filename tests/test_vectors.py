"""Arithmetic on vectors, against numpy's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsearch.vectors import VectorTable, l2_normalize, widened


def test_widened_equals_astype_for_every_finite_float16() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    expected = finite.astype(np.float32)
    np.testing.assert_array_equal(widened(finite).view(np.uint32), expected.view(np.uint32))  # also the sign of zero


def test_l2_normalize_gives_unit_rows_and_leaves_zero_rows() -> None:
    np.testing.assert_allclose(l2_normalize([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]), [[0.6, 0.8], [0, 0], [0, -1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_l2_normalize_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        l2_normalize([[1.0, bad]])


@given(lengths=st.lists(st.integers(0, 20), max_size=6), start=st.integers(0, 60), rows=st.integers(1, 7))
def test_a_table_of_segments_reads_like_one_array(lengths: list[int], start: int, rows: int) -> None:
    whole = np.random.default_rng(0).standard_normal((sum(lengths), 3)).astype(np.float16)
    table = VectorTable(np.split(whole, np.cumsum(lengths)[:-1]) if lengths else [], 3)
    assert len(table) == len(whole)
    blocks = list(table.blocks(start, rows))
    assert [first for first, _ in blocks] == sorted(first for first, _ in blocks)
    read = np.concatenate([np.empty((0, 3), np.float32), *(block for _, block in blocks)])
    np.testing.assert_array_equal(read, whole[start:].astype(np.float32))
    if len(whole):
        for count in (3, 60):  # few are taken one by one
            wanted = np.random.default_rng(1).integers(0, len(whole), count)
            np.testing.assert_array_equal(table.take(wanted), whole[wanted].astype(np.float32))
            in_order = np.sort(wanted)
            np.testing.assert_array_equal(table.take(in_order), whole[in_order].astype(np.float32))


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_out_of_range_is_an_error(row: int) -> None:
    with pytest.raises(IndexError):
        VectorTable([np.zeros((2, 3), np.float16)], 3).take(np.array([row]))
