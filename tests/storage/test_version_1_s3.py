"""A version 1 repository on S3: conditional requests move its refs, other clients can read them."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic

if TYPE_CHECKING:
    from tests.s3_server import S3Server


def test_commits_refs_configuration_and_upgrade(s3: S3Server) -> None:
    storage = ic.s3_storage(prefix=f"v1/{uuid.uuid4()}", **s3.options())
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=0)
    repo = ic.Repository.create(storage, config, spec_version=1)
    with repo.transaction("main", message="first") as store:
        zarr.create_array(store, name="a", shape=(8,), chunks=(1,), dtype="i4", compressors=None)

    failures: list[Any] = []

    def write(at: int) -> None:
        try:
            mine = ic.Repository.open(storage)
            session = mine.writable_session("main")
            zarr.open_array(session.store, path="a", mode="r+")[at] = at + 1
            session.commit(f"{at}", rebase_with=ic.ConflictDetector())
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=write, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    repo.create_tag("é", repo.lookup_branch("main"))
    repo.create_branch("side", repo.lookup_branch("main"))
    repo.delete_branch("side")
    assert repo.list_tags() == {"é"}
    ref = s3.requests("refs/branch.main/ref.json")
    assert any(request["method"] == "PUT" for request in ref)
    ic.Repository.open(storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=9)).save_config()
    with pytest.raises(ic.ConflictError):
        repo.save_config()

    new = ic.upgrade_icechunk_repository(ic.Repository.open(storage), dry_run=False)
    assert new.spec_version == ic.SpecVersion.v2
    assert new.config.inline_chunk_threshold_bytes == 9
    assert not storage.list_objects(prefix="refs/")
    array = zarr.open_array(new.readonly_session(tag="é").store, path="a", mode="r")
    assert np.asarray(array[:]).tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    assert len(list(new.ancestry(branch="main"))) == 6
