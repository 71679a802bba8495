"""Allocations: a bit width for each layer, of which a uniform one is as good as its number."""

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdq.bits import BIT_WIDTHS, FLOAT, Allocation, Bits, bits_name, display_order, is_bits
from kdq.errors import UserError

widths = st.sampled_from(BIT_WIDTHS)
mappings = st.dictionaries(st.text(max_size=4), widths, min_size=1, max_size=4)
allocations = st.builds(Allocation.uniform, widths) | st.builds(Allocation.of, mappings)


@given(widths)
def test_a_uniform_allocation_is_as_good_as_its_number(bits: int) -> None:
    one = Allocation.uniform(bits)
    assert one == Allocation.of_document(bits)
    assert hash(one) == hash(Allocation.of_document(bits))
    assert (one.document(), one.column, one.label) == (bits, bits, str(bits))
    assert one.by_layer(["a", "b"]) == {"a": bits, "b": bits}
    assert one.is_float == (bits == 32) == (one == FLOAT)


@given(mappings)
def test_the_order_in_which_layers_are_named_is_irrelevant(mapping: dict[str, int]) -> None:
    one, other = Allocation.of(mapping), Allocation.of(dict(reversed(mapping.items())))
    assert one == other
    assert (hash(one), one.label) == (hash(other), other.label)
    assert one.by_layer(list(mapping)) == one.document() == mapping
    assert one.is_float == (set(mapping.values()) == {32})


@given(allocations)
def test_json_brings_an_allocation_back(one: Allocation) -> None:
    assert Allocation.of_document(json.loads(json.dumps(one.document()))) == one
    assert is_bits(one.column)


def test_the_label_of_a_mixed_allocation_is_the_digest_of_its_mapping() -> None:
    wanted = sha256(b'{"a":8,"b":2}').hexdigest()[:8]
    assert Allocation.of({"b": 2, "a": 8}).label == Allocation.of({"b": 2, "a": 8}).column == f"mixed-{wanted}"


def test_equal_widths_that_are_named_stay_a_mapping() -> None:
    """Only the model knows whether these are all of its layers."""
    assert Allocation.of({"a": 4, "b": 4}) != Allocation.uniform(4)


@given(st.lists(allocations, max_size=6))
def test_they_sort_as_tables_show_them(several: list[Allocation]) -> None:
    columns = [one.column for one in sorted(several)]
    numbers = sorted(one.column for one in several if isinstance(one.column, int))
    labels = sorted(one.column for one in several if isinstance(one.column, str))
    assert columns == [*numbers, *labels]
    assert sorted(columns, key=display_order) == columns


@pytest.mark.parametrize(
    ("bits", "name"), [(1, "1 bit"), (4, "4 bits"), (32, "float"), ("mixed-0123abcd", "mixed-0123abcd")]
)
def test_names_for_people(bits: Bits, name: str) -> None:
    assert is_bits(bits)
    assert bits_name(bits) == name


@pytest.mark.parametrize("bits", [0, 9, 31, "", "4", "mixed", "mixed-", "mixed-0123ABCD", "mixed-0123abcd0"])
def test_what_a_table_cannot_have(bits: Bits) -> None:
    assert not is_bits(bits)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (0, "bits = 0: must be a whole number from 1 to 8, or 32"),
        ("4", "bits = '4': must be a whole number"),
        (True, "bits = True: must be a whole number"),
        ([4], r"bits = \[4\]: must be a whole number"),
        ({}, "bits = {}: must name every layer, or be one width for all"),
        ({"a": 4, "b": 12}, r"bits\['b'\] = 12: must be a whole number"),
        ({"a": None}, r"bits\['a'\] = None: must be a whole number"),
    ],
)
def test_what_is_no_allocation_is_refused(document: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Allocation.of_document(document)


def test_a_mapping_must_name_just_the_layers_of_the_model() -> None:
    one = Allocation.of({"stem": 8, "out": 2})
    assert list(one.by_layer(["stem", "out"])) == ["stem", "out"]
    with pytest.raises(UserError, match="unknown layer in bits 'stem': did you mean 'stern'"):
        one.by_layer(["stern", "out"])
    with pytest.raises(UserError, match="bits names no width for a, b: must name every layer; 32 leaves one in float"):
        one.by_layer(["stem", "a", "out", "b"])
