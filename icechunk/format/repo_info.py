"""The repo object: refs, snapshot graph, status, configuration, flags and latest operations.

Source: Icechunk specification, sections "Repo (file type 6, v2 only)" and "The repo object in v2".
It is read and written as a whole at every change, so what did not change is copied as bytes.
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icechunk.errors import ErrorKind, FormatError, InternalError
from icechunk.format import flex
from icechunk.format.fb import writer
from icechunk.format.fb.table import Table, root
from icechunk.format.header import DEFAULT_LEVEL, FileType, encode_file, parse_file
from icechunk.format.snapshot_table import SNAPSHOT_INFO, SnapshotRecord, SnapshotTable
from icechunk.format.updates import (
    REPO_STATUS,
    UPDATE,
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    ConfigChanged,
    ExpirationRan,
    FeatureFlagChanged,
    GCRan,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    RepoAvailability,
    RepoInitialized,
    RepoMigrated,
    RepoStatus,
    RepoStatusChanged,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
    UpdateLog,
    read_status,
    status_fields,
)
from icechunk.format.values import METADATA_ITEM, metadata_fields, read_metadata, utf8
from icechunk.ids import ObjectId, id_text

__all__ = [
    "BranchCreated",
    "BranchDeleted",
    "BranchReset",
    "CommitAmended",
    "ConfigChanged",
    "ExpirationRan",
    "FeatureFlagChanged",
    "GCRan",
    "MetadataChanged",
    "NewCommit",
    "NewDetachedSnapshot",
    "RepoAvailability",
    "RepoInfo",
    "RepoInitialized",
    "RepoMigrated",
    "RepoStatus",
    "RepoStatusChanged",
    "SnapshotRecord",
    "SnapshotTable",
    "TagCreated",
    "TagDeleted",
    "Update",
    "UpdateKind",
    "UpdateLog",
    "encode_repo_info",
    "parse_repo_info",
]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPEC_VERSION: Final = 2
MAIN_BRANCH: Final = "main"

_U8: Final = _struct.Struct("<B")
_U32: Final = _struct.Struct("<I")
# Up to this many refs are read one at a time; more as columns.
_FEW_REFS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoInfo:
    """Everything in a repository that changes.

    Parameters
    ----------
    spec_version : int
        Version of the format; 2.
    branches, tags : mapping of str to ObjectId
        Refs and the snapshots they point at, which are all in ``snapshots``.
    deleted_tags : frozenset of str
        Names that may not be used again.
    snapshots : SnapshotTable
        Every registered snapshot.
    status : RepoStatus
        Whether writes are allowed.
    metadata : mapping
        Metadata of the repository.
    updates : UpdateLog
        The newest page of the operations log.
    repo_before_updates : str, optional
        Name under ``overwritten/`` where the log goes on; None when it is complete.
    config : mapping, optional
        Stored configuration; keys in the order of the file.
    enabled_flags, disabled_flags : tuple of int
        Ids of features that are explicitly enabled or disabled, ascending; unknown ones are kept.
    """

    spec_version: int = SPEC_VERSION
    branches: Mapping[str, ObjectId]
    tags: Mapping[str, ObjectId] = field(default_factory=dict)
    deleted_tags: frozenset[str] = frozenset()
    snapshots: SnapshotTable
    status: RepoStatus = field(default_factory=RepoStatus)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    updates: UpdateLog
    repo_before_updates: str | None = None
    config: Mapping[str, Any] | None = None
    enabled_flags: tuple[int, ...] = ()
    disabled_flags: tuple[int, ...] = ()

    @classmethod
    def initial(
        cls,
        record: SnapshotRecord,
        kind: UpdateKind,
        *,
        updated_at_us: int,
        config: Mapping[str, Any] | None = None,
    ) -> RepoInfo:
        """Return a repository of one snapshot, with the branch ``main`` on it.

        Parameters
        ----------
        record : SnapshotRecord
            The snapshot.
        kind : UpdateKind
            First entry of the operations log.
        updated_at_us : int
            When; microseconds since the Unix epoch.
        config : mapping, optional
            Configuration to store.
        """
        return cls(
            branches={MAIN_BRANCH: record.id},
            snapshots=SnapshotTable.of([record]),
            status=RepoStatus(set_at_us=updated_at_us),
            updates=UpdateLog.of([Update(kind=kind, updated_at_us=updated_at_us)]),
            config=config,
        )

    def in_file_order(self) -> RepoInfo:
        """Return the same state with its refs in the order they are read from a file."""
        return replace(
            self,
            branches=dict(sorted(self.branches.items())),
            tags=dict(sorted(self.tags.items())),
        )


def parse_repo_info(data: bytes, *, key: str) -> RepoInfo:
    """Decode a repo object.

    Parameters
    ----------
    data : bytes
        Whole file; need not come from a trusted place.
    key : str
        Its key, for messages.

    Returns
    -------
    RepoInfo
        Refs and the snapshot graph are checked; the details of snapshots and the entries of the
        operations log are decoded when asked for, and a damaged one is reported then.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``, ``unsupported-spec-version``, ``deserialization``,
        ``config-deserialization`` or ``duplicate-snapshot-id``.

    Notes
    -----
    Source: Icechunk specification, section "Repo (file type 6, v2 only)". Cost: some 50 numpy
    operations, whatever the number of snapshots and operations.
    """
    file = parse_file(data, FileType.REPO, key=key)
    table = root(file.body, key=key, name="Repo")
    spec_version = table.number(0, "spec_version", _U8)
    if spec_version != SPEC_VERSION:
        raise FormatError(
            f"{key}: Repo.spec_version: version {spec_version} is not supported, only "
            f"{SPEC_VERSION}; a newer icechunk may read it",
            ErrorKind.UNSUPPORTED_SPEC_VERSION,
        )
    snapshots = SnapshotTable.from_column(table.required_column(4, "snapshots", SNAPSHOT_INFO.name))
    return RepoInfo(
        spec_version=spec_version,
        tags=_read_refs(table, 1, "tags", snapshots),
        branches=_read_refs(table, 2, "branches", snapshots),
        deleted_tags=frozenset(table.required_texts(3, "deleted_tags")),
        snapshots=snapshots,
        status=read_status(table.table(5, "status", REPO_STATUS.name)),
        metadata=read_metadata(table.tables(6, "metadata", METADATA_ITEM.name)),
        updates=UpdateLog.from_column(table.required_column(7, "latest_updates", UPDATE.name)),
        repo_before_updates=table.text(8, "repo_before_updates"),
        config=_read_config(table),
        enabled_flags=_read_flags(table, 10, "enabled_feature_flags"),
        disabled_flags=_read_flags(table, 11, "disabled_feature_flags"),
    )


def encode_repo_info(info: RepoInfo, *, level: int = DEFAULT_LEVEL) -> bytes:
    """Encode a repo object.

    Parameters
    ----------
    info : RepoInfo
        State to write.
    level : int
        zstd compression level.

    Returns
    -------
    bytes
        Whole file. Snapshots and operations that came from a file are copied as bytes.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; more than the format holds, or a damaged snapshot or
        operation in the file this state came from.
    InternalError
        A branch or tag points at a snapshot that is not registered.
    InvalidInputError, TypeError
        A name, metadata or configuration that the format cannot hold.

    Notes
    -----
    Source: Icechunk specification, sections "Repo (file type 6, v2 only)" and "Limits a writer
    must respect".
    """
    before, config = info.repo_before_updates, info.config
    fields: dict[int, writer.Value | None] = {
        0: writer.u8(info.spec_version),
        1: _ref_fields(info.tags, info.snapshots, "tag"),
        2: _ref_fields(info.branches, info.snapshots, "branch"),
        3: writer.Strings([utf8(name, "a tag name") for name in sorted(info.deleted_tags)]),
        4: info.snapshots.blobs(),
        5: writer.Table(status_fields(info.status)),
        6: metadata_fields(info.metadata),
        7: info.updates.blobs(),
        8: None if before is None else writer.string(utf8(before, "the name of a backup")),
        9: None if config is None else writer.byte_vector(flex.encode(config)),
        10: _flag_fields(info.enabled_flags),
        11: _flag_fields(info.disabled_flags),
    }
    body = writer.assemble_root(fields)
    return encode_file(FileType.REPO, body, level=level, spec_version=info.spec_version)


def _read_refs(table: Table, slot: int, name: str, snapshots: SnapshotTable) -> dict[str, ObjectId]:
    part = table.vector(slot, name, 4)
    if part is not None and part.length > _FEW_REFS:
        column = table.required_column(slot, name, "Ref")
        names = column.texts(0, "name")
        indexes = column.scalar(1, "snapshot_index", "<u4").tolist()
    else:
        refs = table.required_tables(slot, name, "Ref")
        names = [ref.required_text(0, "name") for ref in refs]
        indexes = [ref.number(1, "snapshot_index", _U32) for ref in refs]
    found: dict[str, ObjectId] = {}
    for ref, index in zip(names, indexes, strict=True):
        if index >= len(snapshots):
            raise table.buffer.error(
                "Ref.snapshot_index", f"{ref!r} points at snapshot {index} of {len(snapshots)}"
            )
        if ref in found:
            raise table.buffer.error(f"Repo.{name}", f"{ref!r} is there twice")
        found[ref] = snapshots.id_at(index)
    return found


def _ref_fields(refs: Mapping[str, ObjectId], snapshots: SnapshotTable, what: str) -> writer.Tables:
    items: list[writer.Fields] = []
    for name in sorted(refs):
        row = snapshots.row(refs[name])
        if row < 0:
            raise InternalError(
                f"{what} {name!r} points at {id_text(refs[name])}, which is not registered"
            )
        items.append({0: writer.string(utf8(name, f"a {what} name")), 1: writer.u32(row)})
    return writer.Tables(items)


def _read_config(table: Table) -> dict[str, Any] | None:
    data = table.raw(9, "config")
    if data is None:
        return None
    try:
        config = flex.decode(data)
    except FormatError as error:
        raise FormatError(
            f"{table.buffer.key}: Repo.config: {error.message}", ErrorKind.CONFIG_DESERIALIZATION
        ) from error
    if not isinstance(config, dict):
        raise FormatError(
            f"{table.buffer.key}: Repo.config: not a map but a {type(config).__name__}",
            ErrorKind.CONFIG_DESERIALIZATION,
        )
    return config


def _read_flags(table: Table, slot: int, name: str) -> tuple[int, ...]:
    part = table.vector(slot, name, 2)
    if part is None:
        return ()
    flags = np.frombuffer(table.buffer.data, "<u2", part.length, part.first)
    return tuple(sorted(set(flags.tolist())))


def _flag_fields(flags: Sequence[int]) -> writer.Vector | None:
    if not flags:
        return None
    return writer.vector(np.array(sorted(flags), "<u2").tobytes(), len(flags), 2)
