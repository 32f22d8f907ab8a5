"""The stored configuration of a version 1 repository, a file of its own.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from icechunk.assets.ref_store import StoredConfig
from icechunk.assets.refs import backup_name
from icechunk.errors import ConflictError, ErrorKind, StorageError
from icechunk.persisted_yaml import config_to_yaml, yaml_to_config
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.storage.base import Storage, Version

CONFIG_KEY: Final = "config.yaml"
_CONTENT_TYPE: Final = "application/yaml"


async def read_config_file(storage: Storage) -> StoredConfig:
    """Return the stored configuration; raises `FormatError` when it is damaged."""
    try:
        data, version = await storage.get_versioned(CONFIG_KEY)
    except StorageError as e:
        if e.kind == ErrorKind.OBJECT_NOT_FOUND:
            return StoredConfig(None)
        raise
    return StoredConfig(yaml_to_config(data), version)


async def write_config_file(
    storage: Storage, config: Mapping[str, Any], known: Version | None
) -> Version:
    """Store a configuration over the version that is known, None when there was none.

    Raises
    ------
    ConflictError
        Kind ``config-updated``; it is another by now.
    """
    data = config_to_yaml(config)
    try:
        if known is None:
            return await storage.put_if_absent(CONFIG_KEY, data, content_type=_CONTENT_TYPE)
        old, there = await storage.get_versioned(CONFIG_KEY)
        if there == known:
            await storage.put(f"overwritten/{backup_name(CONFIG_KEY)}", old)
            return await storage.put_if_unchanged(
                CONFIG_KEY, data, known, content_type=_CONTENT_TYPE
            )
    except LostRaceError:
        pass
    except UnknownOutcomeError:
        present, there = await storage.get_versioned(CONFIG_KEY)
        if present == data:
            return there
    raise ConflictError(
        None,
        None,
        "somebody else changed the stored configuration since this repository was opened. Open it "
        "again, look at its configuration, and save yours then.",
        ErrorKind.CONFIG_UPDATED,
    )
