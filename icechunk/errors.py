"""The error tree: one base, the official classes, and stable ``kind`` codes.

Source: Icechunk specification, section "Errors". Every exception carries a message that says what
went wrong and what to do next, and a machine-readable ``kind``. All arguments are positional, so
that every error survives the trip between processes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from icechunk._display import quoted, scrubbed
from icechunk._earlier.values import EarlierRebaseFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ErrorKind(StrEnum):
    """Stable codes of what went wrong, the same in every implementation."""

    ANCESTOR_NODE_NOT_FOUND = "ancestor-node-not-found"
    BAD_KEY_PREFIX = "bad-key-prefix"
    BAD_METADATA = "bad-metadata"
    BAD_PREFIX = "bad-prefix"
    BAD_REDIRECT = "bad-redirect"
    BAD_SNAPSHOT_CHAIN_FOR_DIFF = "bad-snapshot-chain-for-diff"
    BRANCH_ALREADY_EXISTS = "branch-already-exists"
    BRANCH_NOT_FOUND = "branch-not-found"
    BRANCH_UPDATE_CONFLICT = "branch-update-conflict"
    CANNOT_DELETE_MAIN = "cannot-delete-main"
    CANNOT_FORK_READ_ONLY_SESSION = "cannot-fork-read-only-session"
    CANNOT_PARSE_URL = "cannot-parse-url"
    CHUNK_NOT_FOUND = "chunk-not-found"
    COMMIT_CONFLICT = "commit-conflict"
    COMMIT_NOT_ALLOWED = "commit-not-allowed"
    CONCURRENCY = "concurrency"
    CONFIG_DESERIALIZATION = "config-deserialization"
    CONFIG_UPDATED = "config-updated"
    CONFLICTING_PATH_NOT_FOUND = "conflicting-path-not-found"
    DESERIALIZATION = "deserialization"
    DUPLICATE_SNAPSHOT_ID = "duplicate-snapshot-id"
    EMPTY_PREFIX_CREATION = "empty-prefix-creation"
    FEATURE_FLAG_DISABLED = "feature-flag-disabled"
    FLUSH = "flush"
    GC_DELETES_FAILING = "gc-deletes-failing"
    INCONSISTENT_MANIFESTS = "inconsistent-manifests"
    INVALID_ARRAY_METADATA = "invalid-array-metadata"
    INVALID_BYTE_RANGE = "invalid-byte-range"
    INVALID_CHUNK_INDEX = "invalid-chunk-index"
    INVALID_COMMIT_CONFIGURATION = "invalid-commit-configuration"
    INVALID_CREDENTIALS = "invalid-credentials"
    INVALID_FEATURE_FLAG = "invalid-feature-flag"
    INVALID_FILE_FORMAT = "invalid-file-format"
    INVALID_KEY = "invalid-key"
    INVALID_MANIFEST_SPLIT_INDEX = "invalid-manifest-split-index"
    INVALID_OBJECT_SIZE = "invalid-object-size"
    INVALID_PATH = "invalid-path"
    INVALID_REF_NAME = "invalid-ref-name"
    INVALID_REF_TYPE = "invalid-ref-type"
    INVALID_REPOSITORY_MIGRATION = "invalid-repository-migration"
    INVALID_SNAPSHOT_ID = "invalid-snapshot-id"
    INVALID_VIRTUAL_REF = "invalid-virtual-ref"
    IO = "io"
    KEY_NOT_FOUND = "key-not-found"
    MANIFEST_INFO_NOT_FOUND = "manifest-info-not-found"
    MERGE_FAILED = "merge-failed"
    MERGE_NOT_ALLOWED = "merge-not-allowed"
    MOVE_DESTINATION_PARENT_MISSING = "move-destination-parent-missing"
    MOVE_DESTINATION_PARENT_NOT_GROUP = "move-destination-parent-not-group"
    MOVE_INTO_SELF_OR_DESCENDANT = "move-into-self-or-descendant"
    MOVE_WONT_OVERWRITE = "move-wont-overwrite"
    NODE_ALREADY_EXISTS = "node-already-exists"
    NODE_NOT_FOUND = "node-not-found"
    NON_REARRANGE_SESSION = "non-rearrange-session"
    NOT_ALLOWED = "not-allowed"
    NOT_AN_ARRAY = "not-an-array"
    NOT_A_GROUP = "not-a-group"
    NOT_ON_BRANCH = "not-on-branch"
    NO_AMEND_FOR_INITIAL_COMMIT = "no-amend-for-initial-commit"
    NO_CHANGES_TO_COMMIT = "no-changes-to-commit"
    NO_CONTAINER_FOR_VIRTUAL_CHUNK = "no-container-for-virtual-chunk"
    NO_SNAPSHOT = "no-snapshot"
    NO_SNAPSHOT_AT_TIME = "no-snapshot-at-time"
    OBJECT_NOT_FOUND = "object-not-found"
    OBJECT_STORE = "object-store"
    PARENT_DIRECTORY_NOT_CLEAN = "parent-directory-not-clean"
    PARTIAL_VALUES_PANIC = "partial-values-panic"
    PICKLE = "pickle"
    POISON_LOCK = "poison-lock"
    READ_ONLY_REPOSITORY = "read-only-repository"
    READ_ONLY_SESSION = "read-only-session"
    READ_ONLY_STORAGE = "read-only-storage"
    READ_ONLY_STORE = "read-only-store"
    REARRANGE_SESSION_ONLY = "rearrange-session-only"
    REBASE_FAILED = "rebase-failed"
    REBASE_TX_LOG_PRUNED = "rebase-tx-log-pruned"
    REF_NOT_FOUND = "ref-not-found"
    REPOSITORY_NOT_FOUND = "repository-not-found"
    REPO_INFO_UPDATED = "repo-info-updated"
    SEMAPHORE_ACQUIRE = "semaphore-acquire"
    SERIALIZATION = "serialization"
    SNAPSHOT_NOT_FOUND = "snapshot-not-found"
    SNAPSHOT_TIMESTAMP = "snapshot-timestamp"
    STORAGE_CONFIG = "storage-config"
    STORAGE_OTHER = "storage-other"
    TAG_ALREADY_EXISTS = "tag-already-exists"
    TAG_ERROR = "tag-error"
    TAG_NOT_FOUND = "tag-not-found"
    TAG_PREVIOUSLY_DELETED = "tag-previously-deleted"
    THROTTLED = "throttled"
    UNAUTHORIZED_VIRTUAL_CHUNK_CONTAINER = "unauthorized-virtual-chunk-container"
    UNCOMMITTED_CHANGES = "uncommitted-changes"
    UNIMPLEMENTED = "unimplemented"
    UNKNOWN = "unknown"
    UNSUPPORTED_OPERATION_FOR_VERSION = "unsupported-operation-for-version"
    UNSUPPORTED_SPEC_VERSION = "unsupported-spec-version"
    UPDATE_ATTEMPTS_EXHAUSTED = "update-attempts-exhausted"
    VIRTUAL_CHUNK_FETCH = "virtual-chunk-fetch"
    VIRTUAL_CHUNK_MODIFIED = "virtual-chunk-modified"
    ZERO_LENGTH_CHUNK = "zero-length-chunk"


class IcechunkError(Exception):
    """Base of every error this package raises.

    Parameters
    ----------
    message : str
        What happened, to which repository, array or key, and what to do next.
    kind : str or None
        Stable code, one of `ErrorKind`; the class's usual one when omitted.
    """

    default_kind: ClassVar[ErrorKind] = ErrorKind.UNKNOWN

    message: str = ""
    kind: str = str(ErrorKind.UNKNOWN)

    def __init__(self, message: str, kind: str | None = None) -> None:
        # Whatever a service or a location said, no password or signature is passed on.
        self.message = scrubbed(message)
        self.kind = str(kind if kind is not None else self.default_kind)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return (
            f"icechunk.{type(self).__name__}"
            f"(message={quoted(self.message)}, kind={quoted(self.kind)})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message, self.kind), self.__dict__)


class ConflictError(IcechunkError):
    """Somebody else changed what this operation relied on.

    Parameters
    ----------
    expected_parent : str or None
        Snapshot id this operation was based on.
    actual_parent : str or None
        Snapshot id found instead; None when unknown or gone.
    message : str or None
        Text; made from the two ids when omitted.
    kind : str or None
        Stable code, ``commit-conflict`` when omitted.
    """

    default_kind = ErrorKind.COMMIT_CONFLICT

    expected_parent: str | None = None
    actual_parent: str | None = None

    def __init__(
        self,
        expected_parent: str | None = None,
        actual_parent: str | None = None,
        message: str | None = None,
        kind: str | None = None,
    ) -> None:
        self.expected_parent = expected_parent
        self.actual_parent = actual_parent
        super().__init__(
            message
            or f"the branch moved: expected its tip at {expected_parent}, found {actual_parent}. "
            "Rebase the session (session.rebase(solver), or commit(..., rebase_with=solver)) and "
            "commit again.",
            kind,
        )

    def __repr__(self) -> str:
        parents = f"expected_parent={self.expected_parent!r}, actual_parent={self.actual_parent!r}"
        return f"icechunk.{type(self).__name__}({parents})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            type(self),
            (self.expected_parent, self.actual_parent, self.message, self.kind),
            self.__dict__,
        )


class RebaseFailedError(EarlierRebaseFailedError, ConflictError):
    """A rebase met conflicts its solver does not resolve.

    Parameters
    ----------
    snapshot : str
        Id of the commit whose changes conflict with the session's.
    conflicts : sequence of Conflict
        What conflicts, by array and chunk.
    message : str or None
        Text; the conflicts written out when omitted.
    """

    default_kind = ErrorKind.REBASE_FAILED

    snapshot: str = ""
    conflicts: Sequence[Any] = ()
    report: Any = None
    """`ConflictReport` of what conflicts, where the error comes from a rebase: as a table, as HTML
    in a notebook, and with ``to_dict`` as data."""

    def __init__(
        self, snapshot: str, conflicts: Sequence[Any] = (), message: str | None = None
    ) -> None:
        self.snapshot = snapshot
        self.conflicts = list(conflicts)
        if message is None:
            lines = "".join(f"\n  - {c}" for c in self.conflicts)
            message = f"rebase failed on snapshot {snapshot}:{lines}"
        super().__init__(None, snapshot, message, self.default_kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.snapshot, self.conflicts, self.message), self.__dict__)


class NotFoundError(IcechunkError, KeyError):
    """Something named does not exist."""

    default_kind = ErrorKind.OBJECT_NOT_FOUND


class NodeNotFoundError(NotFoundError):
    """No group or array at a path, or no such key."""

    default_kind = ErrorKind.NODE_NOT_FOUND


class SnapshotNotFoundError(NotFoundError):
    """No such snapshot in the repository."""

    default_kind = ErrorKind.SNAPSHOT_NOT_FOUND


class RefNotFoundError(NotFoundError):
    """No such branch or tag."""

    default_kind = ErrorKind.REF_NOT_FOUND


class RepositoryNotFoundError(NotFoundError):
    """No repository at the location."""

    default_kind = ErrorKind.REPOSITORY_NOT_FOUND


class AlreadyExistsError(IcechunkError):
    """A node, branch or tag of that name is there already."""

    default_kind = ErrorKind.NODE_ALREADY_EXISTS


class ReadOnlyError(IcechunkError):
    """A write through a read-only session, store, storage or repository."""

    default_kind = ErrorKind.READ_ONLY_SESSION


class InvalidInputError(IcechunkError, ValueError):
    """An argument, key or document that cannot be accepted."""

    default_kind = ErrorKind.INVALID_KEY


class SessionStateError(IcechunkError):
    """The session or repository is not in a state that allows this."""

    default_kind = ErrorKind.NOT_ALLOWED


class StorageError(IcechunkError):
    """Reading or writing objects failed."""

    default_kind = ErrorKind.OBJECT_STORE


class FormatError(IcechunkError):
    """Bytes that are not what the format says."""

    default_kind = ErrorKind.INVALID_FILE_FORMAT


class InternalError(IcechunkError):
    """A broken invariant of this package: please report it."""

    default_kind = ErrorKind.UNKNOWN


class UnmergedChangesWarning(UserWarning):
    """A fork was dropped with changes that were neither merged nor sent anywhere."""
