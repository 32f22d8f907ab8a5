"""Locations of virtual chunks as they are stored (specification 10.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.core.virtual_refs import location_texts, normalise_location, normalise_locations
from icechunk.errors import InvalidInputError
from icechunk.format.ragged import Ragged


@pytest.mark.parametrize(
    ("given_", "stored"),
    [
        ("file:///data/x y/../z.bin", "file:///data/z.bin"),
        ("FILE:///data/é", "file:///data/%C3%A9"),
        ("file:///data/a%20b?x=1#f", "file:///data/a%20b?x=1#f"),
        ("file:///data/a b", "file:///data/a%20b"),
        ("file:///data/%2e%2E/b", "file:///b"),
        ("s3://b/x y/../z", "s3://b/x y/../z"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("http://h/x y", "http://h/x y"),
        ("vcc://name/rest", "vcc://name/rest"),
    ],
)
def test_stored_form_is_the_reference_s(given_: str, stored: str) -> None:
    assert normalise_location(given_) == stored
    assert location_texts(normalise_locations([given_, "file:///plain"])) == [
        stored,
        "file:///plain",
    ]


@pytest.mark.parametrize("bad", ["", "nope", "file://host/x", "file:x", "http://h/a/../b", "s3:"])
def test_what_is_no_location_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        normalise_location(bad)
    assert caught.value.kind == "invalid-virtual-ref"


PARTS = st.text("ab.%2e /\\?#é", max_size=6)


@given(st.lists(PARTS.map(lambda s: "file:///" + s)))
def test_the_quick_way_gives_what_the_careful_way_gives(locations: list[str]) -> None:
    try:
        careful = [normalise_location(location) for location in locations]
    except InvalidInputError:
        with pytest.raises(InvalidInputError):
            normalise_locations(locations)
        return
    assert location_texts(normalise_locations(locations)) == careful


@given(st.lists(st.text("aé")))
def test_texts_of_a_column(texts: list[str]) -> None:
    column = Ragged.from_list([text.encode() for text in texts])
    assert location_texts(column) == texts
