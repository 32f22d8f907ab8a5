"""Manifests fetched before they are asked for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import zarr

import icechunk as ic
from icechunk.assets.preload import manifests_to_preload
from icechunk.ids import id_text
from tests.faults import FaultyStorage

if TYPE_CHECKING:
    from icechunk.storage.objects import ByteRange, ReadCondition

ARRAYS = {"latitude": 10, "longitude": 20, "time": 30, "temperature": 40, "big_time": 1200}


class Slow(FaultyStorage):
    """A storage that is not immediate, and writes down what is read."""

    immediate = False

    def __init__(self, inner: ic.Storage) -> None:
        super().__init__(inner)
        self.reads: list[str] = []

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        self.reads.append(key)
        return await super().get(key, byte_range, condition=condition)


def repository(config: ic.RepositoryConfig | None = None) -> tuple[Slow, ic.Repository]:
    inner = ic.in_memory_storage()
    made = ic.Repository.create(inner)
    with made.transaction("main", message="arrays") as store:
        for name, chunks in ARRAYS.items():
            array = zarr.create_array(store, name=name, shape=(chunks,), chunks=(1,), dtype="i1")
            array[:] = 1
    slow = Slow(inner)
    return slow, ic.Repository.open(slow, config)


def preloaded(repo: ic.Repository, slow: Slow) -> set[str]:
    session = repo.readonly_session("main")
    names = set()
    deadline = time.monotonic() + 5
    wanted = manifests_to_preload(
        session.checkout.base.snapshot, session.checkout.assets.config.preload
    )
    while time.monotonic() < deadline:
        read = {key.partition("/")[2] for key in slow.reads if key.startswith("manifests/")}
        if len(read) == len(wanted):
            break
        time.sleep(0.01)
    for node in session.checkout.nodes():
        if any(id_text(node.manifests.id_at(i)) in read for i in range(len(node.manifests))):
            names.add(node.path.removeprefix("/"))
    return names


def with_preload(**options: Any) -> ic.RepositoryConfig:
    preload = ic.ManifestPreloadConfig(**options)
    return ic.RepositoryConfig(manifest=ic.ManifestConfig(preload=preload))


def test_by_default_small_coordinates_come_early() -> None:
    slow, repo = repository()
    assert preloaded(repo, slow) == {"latitude", "longitude", "time"}


CASES = {
    "nothing": ({"preload_if": ic.ManifestPreloadCondition.false()}, set()),
    "everything": (
        {"preload_if": ic.ManifestPreloadCondition.true(), "max_total_refs": 10_000},
        set(ARRAYS),
    ),
    "at most so many references": (
        {"preload_if": ic.ManifestPreloadCondition.true(), "max_total_refs": 1230},
        {"big_time", "latitude", "longitude"},
    ),
    "at most so many arrays": (
        {"preload_if": ic.ManifestPreloadCondition.true(), "max_arrays_to_scan": 2},
        {"big_time", "latitude"},
    ),
    "by name": (
        {"preload_if": ic.ManifestPreloadCondition.name_matches("^temp")},
        {"temperature"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_configured(case: str) -> None:
    options, expected = CASES[case]
    slow, repo = repository(with_preload(**options))
    assert preloaded(repo, slow) == expected
