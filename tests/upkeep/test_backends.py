"""Upkeep on storages that list and delete for real."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import icechunk as ic
from icechunk.ops import gc
from tests.s3_server import BUCKET, KEY, SECRET, S3Server
from tests.upkeep.test_expire import written_at
from tests.upkeep.test_gc import check, commit, filled, keys, values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with S3Server.running() as server:
        yield server


@pytest.fixture(params=["local", "s3", "s3 in parts"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ic.Storage:
    if request.param == "local":
        return ic.local_filesystem_storage(str(tmp_path / "repo"), pack_small_chunks=False)
    if request.param == "s3 in parts":
        monkeypatch.setattr(gc, "_LISTED_WHOLE", 0)
    server = request.getfixturevalue("s3_server")
    return ic.s3_storage(
        bucket=BUCKET,
        prefix=tmp_path.name,
        region="us-east-1",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        access_key_id=KEY,
        secret_access_key=SECRET,
    )


def test_expired_history_is_collected(storage: ic.Storage) -> None:
    repo = filled(storage)
    ids = [commit(repo, float(n)) for n in range(2, 6)]
    assert len(repo.expire_snapshots(written_at(repo, ids[-1]))) == 4
    before = keys(storage)
    nothing = repo.garbage_collect(datetime.now(UTC) - timedelta(hours=1))
    assert nothing == gc.GCSummary()
    soon = datetime.now(UTC) + timedelta(seconds=5)
    summary = repo.garbage_collect(soon)
    assert (summary.snapshots_deleted, summary.manifests_deleted) == (4, 4)
    assert (summary.chunks_deleted, summary.transaction_logs_deleted) == (4, 0)
    gone = before - keys(storage)
    assert len(gone) == 12
    assert repo.garbage_collect(soon) == gc.GCSummary()
    assert values(repo) == [5.0, *[1.0] * 7]
    assert repo.chunk_storage_stats().native_bytes == 8 * 800
    check(storage)
