"""A transactional, version-controlled storage engine for Zarr, in pure Python.

`Repository` keeps versions of a Zarr hierarchy on a `Storage`; a `Session` reads one version or
makes the next; `Session.store` is the zarr store over it. `icechunk.xarray.to_icechunk` writes
datasets, on a dask cluster if there is one.
"""

from icechunk._version import __version__
from icechunk.config import (
    Attribution,
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    FeatureFlag,
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    ObjectStoreConfig,
    RepositoryConfig,
    S3Options,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    VirtualChunkContainer,
)
from icechunk.conflicts import (
    BasicConflictSolver,
    Conflict,
    ConflictDetector,
    ConflictSolver,
    ConflictType,
    VersionSelection,
)
from icechunk.credentials import (
    AnyAzureCredential,
    AnyAzureStaticCredential,
    AnyCredential,
    AnyGcsCredential,
    AnyGcsStaticCredential,
    AnyS3Credential,
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    Credentials,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    S3Credentials,
    S3StaticCredentials,
    azure_anonymous_credentials,
    azure_credentials,
    azure_from_env_credentials,
    azure_refreshable_credentials,
    azure_static_credentials,
    containers_credentials,
    gcs_credentials,
    gcs_from_env_credentials,
    gcs_refreshable_credentials,
    gcs_static_credentials,
    s3_anonymous_credentials,
    s3_credentials,
    s3_from_env_credentials,
    s3_refreshable_credentials,
    s3_static_credentials,
)
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    FormatError,
    IcechunkError,
    InternalError,
    InvalidInputError,
    NodeNotFoundError,
    NotFoundError,
    ReadOnlyError,
    RebaseFailedError,
    RefNotFoundError,
    RepositoryNotFoundError,
    SessionStateError,
    SnapshotNotFoundError,
    StorageError,
    UnmergedChangesWarning,
)
from icechunk.repository import Repository
from icechunk.session import ForkSession, Session, SessionMode
from icechunk.snapshots import Diff, SnapshotHistory, SnapshotInfo
from icechunk.storage import (
    Storage,
    in_memory_storage,
    local_filesystem_storage,
)
from icechunk.store import IcechunkStore
from icechunk.types import ChecksumAlgorithm, ChunkType, RepoAvailability, RepoStatus, SpecVersion
from icechunk.virtual import VirtualChunkSpec
from icechunk.virtual_containers import s3_store  # noqa: F401
