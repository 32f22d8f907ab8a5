"""What the error of a failed rebase shows: a table, data, HTML, and on the command line."""

from __future__ import annotations

import json
import pickle
from itertools import product

import pytest
import zarr
from zarr.core.sync import sync

import icechunk as ic
from icechunk.cli.exits import ExitCode, failure_of
from icechunk.conflicts import Conflict, ConflictReport, ConflictType
from icechunk.core.conflict_report import rebase_failure
from icechunk.core.spans import spans_text
from icechunk.format.repo_info import SnapshotRecord
from icechunk.ids import new_object_id


@pytest.fixture
def failed() -> ic.RebaseFailedError:
    repo = ic.Repository.create(ic.in_memory_storage())
    with repo.transaction("main", message="template") as store:
        for name in ("air", "old"):
            zarr.create_array(store, name=name, shape=(40, 40), chunks=(10, 10), dtype="f8")
    theirs, ours = repo.writable_session("main"), repo.writable_session("main")
    for name in ("air", "old"):
        zarr.open_array(theirs.store, path=name, mode="r+")[:] = 1
    theirs.commit("nightly \x1b[31mupdate\nwith details")
    array = zarr.open_array(ours.store, path="air", mode="r+")
    array[0:30, 10:20] = 2
    array[30:, 30:] = 3
    sync(ours.store.delete_dir("old"))
    with pytest.raises(ic.RebaseFailedError) as caught:
        ours.rebase(ic.ConflictDetector())
    return caught.value


def test_the_message_is_a_table_with_ranges_their_commit_and_the_answers(
    failed: ic.RebaseFailedError,
) -> None:
    title, head, _, air, old, *notes = str(failed).splitlines()
    assert failed.snapshot in title
    assert r"'nightly \x1b[31mupdate'" in title, "control characters do not reach the terminal"
    assert "UTC" in title
    assert head.split()[-2:] == ["UseOurs", "UseTheirs"]
    shown = "/air [0:3, 1], [3, 3] 4 wrote them wrote them ours replace theirs ours are dropped"
    assert " ".join(air.split()) == shown
    shown = "/old deleted it changed it stays deleted stays deleted"
    assert " ".join(old.split()) == shown
    assert any("fail_on_delete_of_updated_array=True" in note for note in notes)
    assert "VersionSelection.UseOurs" in notes[-1]


def test_the_same_as_data_and_html_and_through_a_pickle(failed: ic.RebaseFailedError) -> None:
    report = pickle.loads(pickle.dumps(failed)).report
    assert isinstance(report, ConflictReport)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["theirs"]["snapshot_id"] == failed.snapshot
    assert data["theirs"]["message"].endswith("with details")
    air, old = data["conflicts"]
    assert (air["path"], air["chunk_count"]) == ("/air", 4)
    assert air["chunk_ranges"] == [[[0, 3], [1, 2]], [[3, 4], [3, 4]]]
    assert old["solvers"]["fail_on_delete_of_updated_array=True"] == "fails"
    assert len(data["resolved_by"]) == 2
    assert "<td" in report._repr_html_()
    assert "/air" in report._repr_html_()


def test_the_command_line_shows_it(failed: ic.RebaseFailedError) -> None:
    failure = failure_of(failed)
    assert "/air" in failure.message
    assert "[0:3, 1]" in failure.message
    assert failure.code is ExitCode.CONFLICT


def test_long_lists_are_cut_and_say_so() -> None:
    theirs = SnapshotRecord(
        id=new_object_id(), parent_id=None, flushed_at_us=10**15, message="m" * 500, metadata={}
    )
    scattered = [[i, j] for i, j in product(range(200), range(200)) if (i + j) % 2]
    conflicts = [
        Conflict(ConflictType.ChunkDoubleUpdate, f"/array-{n}", scattered) for n in range(50)
    ]
    text = str(rebase_failure(theirs, conflicts))
    assert "and 19,994 more ranges" in text
    assert "and 30 more; all are in error.conflicts" in text
    assert len(text) < 12_000


def test_what_no_solver_resolves_says_so() -> None:
    theirs = SnapshotRecord(
        id=new_object_id(), parent_id=None, flushed_at_us=10**15, message="m", metadata={}
    )
    for kind in ConflictType:
        error = rebase_failure(theirs, [Conflict(kind, "", None)])
        solved = [ic.BasicConflictSolver().resolves(c) for c in error.conflicts]
        assert ("no solver" in str(error)) is not all(solved)


def test_ranges() -> None:
    assert spans_text([[3], [1], [2], [7]], 6) == "[1:4], [7]"
    assert spans_text([[n] for n in range(0, 20, 2)], 2) == "[0], [2] and 8 more ranges"
    assert spans_text([[]], 6) == "[]"


def test_metadata_that_both_changed_names_the_option_for_attributes() -> None:
    theirs = SnapshotRecord(
        id=new_object_id(), parent_id=None, flushed_at_us=10**15, message="m", metadata={}
    )
    text = str(rebase_failure(theirs, [Conflict(ConflictType.ZarrMetadataDoubleUpdate, "/t")]))
    assert "on_user_attributes_conflict" in text
