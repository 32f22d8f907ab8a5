"""What no virtual reference can be made of is refused; nothing is wrapped, rounded or left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk as ic

PLACE = "s3://bucket/file"
NO_ZONE = datetime(2030, 1, 1)  # it has none
TOO_EARLY = datetime(1960, 1, 1, tzinfo=UTC)
TOO_LATE = datetime(2160, 1, 1, tzinfo=UTC)


@pytest.fixture
def session() -> ic.Session:
    session = ic.Repository.create(ic.in_memory_storage()).writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=(4, 4), chunks=(2, 2), dtype="u1", compressors=None
    )
    return session


def one(store: ic.IcechunkStore, **given: Any) -> None:
    arguments = {"offset": 0, "length": 4, **given}
    store.set_virtual_ref("a/c/0/0", PLACE, validate_container=False, **arguments)


def block(store: ic.IcechunkStore, **given: Any) -> None:
    arguments: dict[str, Any] = {
        "offsets": np.arange(4) * 4,
        "lengths": np.full(4, 4),
        "chunk_grid_shape": (2, 2),
        **given,
    }
    store.set_virtual_refs_arr("a", locations=[PLACE] * 4, validate_containers=False, **arguments)


@pytest.mark.parametrize("setter", [one, block])
@pytest.mark.parametrize(
    ("checksum", "error"),
    [
        (3, TypeError),
        (b"etag", TypeError),
        (["etag"] * 4, TypeError),
        (np.datetime64("2030-01-01"), TypeError),
        (NO_ZONE, TypeError),
        (TOO_EARLY, ic.InvalidInputError),
        (TOO_LATE, ic.InvalidInputError),
    ],
)
def test_what_is_no_checksum(session, setter, checksum, error):
    with pytest.raises(error, match="checksum"):
        setter(session.store, checksum=checksum)
    assert session.all_virtual_chunk_locations() == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"offset": -1}, ValueError),
        ({"length": -4}, ValueError),
        ({"offset": 2**64}, ValueError),
        ({"offset": 1.5}, TypeError),
        ({"length": "4"}, TypeError),
    ],
)
def test_what_is_no_range(session, given, error):
    with pytest.raises(error):
        one(session.store, **given)
    assert session.all_virtual_chunk_locations() == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"offsets": np.array([0, 4, -8, 12])}, ic.InvalidInputError),
        ({"lengths": np.array([4, 4, -4, 4])}, ic.InvalidInputError),
        ({"offsets": np.array([0, 4.5, 8, 12])}, TypeError),
        ({"lengths": ["4"] * 4}, TypeError),
        ({"arr_offset": (0,)}, ic.InvalidInputError),
        ({"arr_offset": (-1, 0)}, ic.InvalidInputError),
        ({"arr_offset": (1, 0)}, ic.InvalidInputError),
        ({"chunk_grid_shape": (4,)}, ic.InvalidInputError),
    ],
)
def test_what_is_no_block(session, given, error):
    with pytest.raises(error):
        block(session.store, **given)
    assert session.all_virtual_chunk_locations() == []


def test_what_is_no_reference(session):
    with pytest.raises(TypeError, match="VirtualChunkSpec, not tuple"):
        session.store.set_virtual_refs("a", [([0, 0], PLACE, 0, 4)], validate_containers=False)
    assert session.all_virtual_chunk_locations() == []


def test_all_kinds_of_whole_numbers(session):
    for kind in ("u1", "i8", ">u4"):
        block(session.store, offsets=np.arange(4).astype(kind), lengths=np.full(4, 4, kind))
    block(session.store, offsets=[0, 4, 8, 12], lengths=[4] * 4, checksum=datetime.now(UTC))
    assert session.all_virtual_chunk_locations() == [PLACE] * 4
