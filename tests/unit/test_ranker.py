"""Towers: the forward pass and its inputs, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.towers import Towers, banner_inputs, visitor_inputs


def test_tower_forward_pass_by_hand() -> None:
    one = np.ones((1, 1), np.float32)
    towers = Towers(
        visitor_hidden=np.array([[1.0, -1.0], [1.0, -1.0]], np.float32),
        visitor_hidden_bias=np.zeros(2, np.float32),
        visitor_output=np.array([[3.0, 4.0], [1.0, 1.0]], np.float32),
        visitor_output_bias=np.zeros(2, np.float32),
        banner_embedding=np.array([[0.0], [2.0]], np.float32),
        banner_hidden=np.array([[1.0], [1.0]], np.float32),
        banner_hidden_bias=np.zeros(1, np.float32),
        banner_output=np.array([[0.0, 5.0]], np.float32),
        banner_output_bias=np.zeros(2, np.float32),
    )
    # hidden = relu([2, −2]) = [2, 0]; output = [6, 8]; length 10.
    assert towers.visitor_vectors(np.ones((1, 2), np.float32)) == pytest.approx(np.array([[0.6, 0.8]]))
    assert towers.banner_vectors(np.array([1]), one) == pytest.approx(np.array([[0.0, 1.0]]))
    # Nothing known of either: a zero vector, not a division by zero.
    assert towers.visitor_vectors(np.zeros((1, 2), np.float32)).tolist() == [[0.0, 0.0]]


def test_tower_inputs_take_missing_counts_for_none() -> None:
    shares = np.array([[0.5]], np.float32)
    assert visitor_inputs(shares, np.array([[np.nan, np.e - 1]])) == pytest.approx(np.array([[0.5, 0.0, 0.2]]))
    assert banner_inputs(shares, np.array([0.0]), np.array([np.e - 1])) == pytest.approx(np.array([[0.5, 0.0, 0.2]]))
