"""Vectors of correct predictions as text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdq.correctness import decode, encode, top1


@given(st.integers(1, 3000).flatmap(lambda count: arrays(np.bool_, count)))
def test_a_vector_comes_back(correct: np.ndarray) -> None:
    text = encode(correct)
    assert text.isascii()
    assert len(text) <= 1.25 * len(correct) / 8 + 30
    assert decode(text).tolist() == correct.tolist()
    assert top1(correct) == 100 * (correct.tolist().count(True) / len(correct))


def test_the_images_of_cifar_take_a_few_hundred_bytes() -> None:
    correct = np.random.default_rng(0).random(5000) < 0.9
    assert len(encode(correct)) < 600


@pytest.mark.parametrize(
    "text", ["", "5", "p", "0p", "-5p", "5x0", "99999999p", "5p", "16pzz", "5z00", "²p", "5p~\x00"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(text)
