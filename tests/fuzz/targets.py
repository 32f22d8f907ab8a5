"""What is fuzzed: one function for each kind of file, given any bytes.

The rule is the same for all: `FormatError` is the only error that may come out while bytes are
read, and what was read can be written, and reads back equal. (Tables that are copied unread may
still fail then, with the same error and nothing written.) A function returns when the rule held and
lets anything else through. Where a file is compressed the bytes are those within, since
no mutation of a compressed frame leads anywhere; the envelope is a kind of its own.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgpack
import zstandard

from icechunk.core.wire import decode_document, encode_document, pack_changes, unpack_changes
from icechunk.errors import FormatError
from icechunk.format import flex
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.manifest import encode_manifest, parse_manifest
from icechunk.format.repo_info import encode_repo_info, parse_repo_info
from icechunk.format.snapshot import encode_snapshot, parse_snapshot
from icechunk.format.transaction_log import encode_transaction_log, parse_transaction_log
from icechunk.resolved_config import LocationCompression

if TYPE_CHECKING:
    from collections.abc import Callable

    from icechunk.format.manifest import Manifest

KEY = "file"
_MOST_BODY_BYTES = 1 << 22


def header(data: bytes) -> None:
    for file_type in FileType:
        with contextlib.suppress(FormatError):
            read = parse_file(data, file_type, key=KEY, max_body_bytes=_MOST_BODY_BYTES)
            written = encode_file(file_type, read.body, spec_version=read.spec_version)
            again = _must(lambda w=written, t=file_type: parse_file(w, t, key=KEY))  # type: ignore[misc]
            assert (again.body, again.spec_version) == (read.body, read.spec_version)


def snapshot_v1(body: bytes) -> None:
    _snapshot(body, 1)


def snapshot_v2(body: bytes) -> None:
    _snapshot(body, 2)


def _snapshot(body: bytes, spec_version: int) -> None:
    try:
        read = parse_snapshot(_file(FileType.SNAPSHOT, body, spec_version), key=KEY)
        nodes = list(read.nodes)
        used = read.nodes.manifest_ids()
        read.manifest_files.restricted_to(used)
    except FormatError:
        return
    for node in nodes:
        assert read.nodes.get(node.path) is not None
    try:
        written = encode_snapshot(read)
    except FormatError:
        return  # Parts that are copied unread, such as fields of the other version, are damaged.
    again = _must(lambda: parse_snapshot(written, key=KEY))
    assert _json(again.metadata) == _json(read.metadata)
    assert list(again.nodes) == nodes
    for name in ("id", "parent_id", "flushed_at_us", "message", "manifest_files", "spec_version"):
        assert getattr(again, name) == getattr(read, name), name


def manifest(body: bytes) -> None:
    try:
        read = parse_manifest(_file(FileType.MANIFEST, body), key=KEY)
        rows = _rows(read)
    except FormatError:
        return
    packed = LocationCompression(min_num_chunks=1)
    for options in (None, packed):
        again = _must(
            lambda o=options: parse_manifest(  # type: ignore[misc]
                encode_manifest(read, location_compression=o), key=KEY
            )
        )
        assert again.id == read.id
        assert _must(lambda m=again: _rows(m)) == rows  # type: ignore[misc]


def _rows(read: Manifest) -> list[Any]:
    found: list[Any] = []
    for node_id, table in read.arrays:
        coords = [tuple(row) for row in table.coords.tolist()]
        assert coords == sorted(set(coords))
        plain = table.unpacked()
        refs = [plain.ref(row) for row in range(len(plain))]
        assert refs == [table.ref(row) for row in range(len(table))]
        if coords:
            assert [table.find(coord) for coord in coords] == list(range(len(coords)))
        found.append((node_id, coords, refs))
    return found


def transaction_log(body: bytes) -> None:
    try:
        read = parse_transaction_log(_file(FileType.TRANSACTION_LOG, body), key=KEY)
    except FormatError:
        return
    again = _must(lambda: parse_transaction_log(encode_transaction_log(read), key=KEY))
    # Moves are written in the order of the new paths, whatever order they came in.
    moves = sorted(read.moved_nodes, key=repr)
    assert sorted(again.moved_nodes, key=repr) == moves
    assert replace(again, moved_nodes=()) == replace(read, moved_nodes=())


def repo(body: bytes) -> None:
    try:
        read = parse_repo_info(_file(FileType.REPO, body), key=KEY)
        records, updates = list(read.snapshots), list(read.updates)
        for record in records:
            assert record.parent_id is None or record.parent_id in read.snapshots
            _ = (record.message, record.metadata, record.pruned_logs)
    except FormatError:
        return
    for target in read.branches.values():
        assert len(list(read.snapshots.ancestor_ids(target))) <= len(records)
    try:
        written = encode_repo_info(read)
    except FormatError:
        return
    again = _must(lambda: parse_repo_info(written, key=KEY))
    assert _must(lambda: _json([_record(r) for r in again.snapshots])) == _json(
        [_record(r) for r in records]
    )
    assert list(again.updates) == updates
    assert _json([again.metadata, again.config]) == _json([read.metadata, read.config])
    names = ["branches", "tags", "deleted_tags", "status", "repo_before_updates"]
    for name in [*names, "enabled_flags", "disabled_flags"]:
        assert getattr(again, name) == getattr(read, name), name


def _record(record: Any) -> list[Any]:
    logs = [bytes(log) for log in record.pruned_logs]
    return [
        bytes(record.id),
        record.parent_id and bytes(record.parent_id),
        record.flushed_at_us,
        record.message,
        record.metadata,
        logs,
    ]


def flexbuffers(data: bytes) -> None:
    try:
        read = flex.decode(data)
    except FormatError:
        return
    assert _json(_must(lambda: flex.decode(flex.encode(read)))) == _json(read)


def session(data: bytes) -> None:
    """Read the bytes of a pickled session, or the document within them."""
    packed = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data)
    for given in (data, packed):
        try:
            document = decode_document(given)
            changes = [unpack_changes(document[part]) for part in ("inherited", "own")]
        except (FormatError, KeyError):  # whoever calls turns a missing key into a FormatError
            continue
        for one in changes:
            again = _must(lambda o=one: unpack_changes(_travelled(pack_changes(o))))  # type: ignore[misc]
            assert pack_changes(again) == pack_changes(one)


def _travelled(packed: dict[str, Any]) -> dict[str, Any]:
    return decode_document(encode_document(packed))


def session_document(changes: Any) -> bytes:
    """Return the bytes that `session` takes, for a change set."""
    empty: dict[str, Any] = {"new": [], "updated": [], "deleted": [], "chunks": [], "moves": []}
    document = {"version": 2, "base": bytes(12), "mode": 1}
    return msgpack.packb(  # type: ignore[no-any-return]
        {**document, "inherited": empty, "own": pack_changes(changes)}, use_bin_type=True
    )


def _file(file_type: FileType, body: bytes, spec_version: int = 2) -> bytes:
    return encode_file(file_type, body, level=1, spec_version=spec_version)


def _must(use: Callable[[], Any]) -> Any:
    """Do what cannot fail any more: here a FormatError breaks the rule as well."""
    try:
        return use()
    except FormatError as e:
        raise AssertionError(f"what was read is not written or not read back: {e}") from e


def _json(value: Any) -> Any:
    """Return a value as it is written: NaN and infinities as null, by what flex says of itself."""
    if isinstance(value, float):
        # By representation, so that 0.0 and -0.0, 1 and 1.0 and True differ.
        return ("float", value.hex()) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return value if value is None else (type(value).__name__, value)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "snapshot_v1": snapshot_v1,
    "snapshot_v2": snapshot_v2,
    "manifest": manifest,
    "transaction_log": transaction_log,
    "repo": repo,
    "flexbuffers": flexbuffers,
    "session": session,
}
