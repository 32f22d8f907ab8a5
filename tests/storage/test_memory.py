"""The in-memory storage."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from icechunk._io.loop import run
from icechunk.errors import StorageError
from icechunk.storage import Storage, in_memory_storage
from icechunk.storage.url import storage_for_url
from tests.storage.conformance import StorageConformance


class TestMemory(StorageConformance):
    rounds = 50

    @pytest.fixture
    def storage(self) -> Storage:
        return in_memory_storage()


def test_each_is_a_place_of_its_own() -> None:
    one, other = in_memory_storage(), Storage.new_in_memory()
    run(one.put("repo", b"1"))
    assert run(other.is_clean())
    assert one != other


def test_same_url_is_same_place() -> None:
    one, other = storage_for_url("memory://shared"), storage_for_url("memory://shared/")
    assert one == other
    assert one != storage_for_url("memory://another")
    assert str(one) == "<icechunk.Storage>\ntype: in-memory\nname: shared\n"
    assert str(in_memory_storage()) == "<icechunk.Storage>\ntype: in-memory\n"


def test_gone_with_its_last_user() -> None:
    storage = in_memory_storage()
    recipe = pickle.dumps(storage)
    assert pickle.loads(recipe) == storage
    del storage
    with pytest.raises(StorageError, match="one process only"):
        pickle.loads(recipe)


def _unpickle(recipe: bytes) -> str:
    try:
        return str(pickle.loads(recipe))
    except StorageError as error:
        return f"{error.kind}: {error}"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_says_no(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    storage = in_memory_storage()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        answer = pool.submit(_unpickle, pickle.dumps(storage)).result(60)
    assert answer.startswith("storage-config: an in-memory repository lives in one process only")
