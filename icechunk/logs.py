"""What the package tells while it works: which messages appear, and where.

The package logs through Python's `logging`, under names that are its modules
(``icechunk.transaction``, ``icechunk.storage.s3`` and so on). Filters are written as for the
official package: directives separated by commas, each a level, a place, or ``place=level``. A place
may be written with ``::`` or with dots. The variable ``ICECHUNK_LOG`` holds the filter to start
with.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import sys
from typing import Final

from icechunk._version import __version__

TRACE: Final = 5
"""Level below ``logging.DEBUG``."""
OFF: Final = logging.CRITICAL + 10
"""Level above everything."""

_VARIABLE: Final = "ICECHUNK_LOG"
_ROOT: Final = "icechunk"
_LEVELS: Final = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_BY_NUMBER: Final = dict(enumerate(_LEVELS.values()))
_PLACE: Final = re.compile(r"[\w.:-]+")
# Crates of the official package, and what does their work here.
_CRATES: Final = {
    "icechunk_format": "icechunk.format",
    "icechunk_storage": "icechunk.storage",
    "icechunk_arrow_object_store": "icechunk.storage",
    "icechunk_s3": "icechunk.storage.s3",
}
_PACKAGES_SHOWN: Final = ("zarr", "numcodecs", "xarray", "dask", "virtualizarr")


class _OurHandler(logging.StreamHandler):  # type: ignore[type-arg] # of any stream
    """The handler this module adds, recognised when it is to be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)5s %(name)s: %(message)s"))


def initialize_logs() -> None:
    """Show the package's messages, as the variable ``ICECHUNK_LOG`` says.

    They go to the handlers that `logging` is configured with, or to standard error when there are
    none. Done by itself on import when the variable is set.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.initialize_logs()
    """
    logging.addLevelName(TRACE, "TRACE")
    logger = logging.getLogger(_ROOT)
    if not logger.hasHandlers():
        logger.addHandler(_OurHandler())
    set_logs_filter(None)


def set_logs_filter(log_filter_directive: str | None) -> None:
    """Choose which messages appear, in place of the choice before.

    Parameters
    ----------
    log_filter_directive : str or None
        Directives separated by commas: ``debug`` (for everything), ``icechunk.transaction=info``,
        ``icechunk.storage`` (everything from there); levels are off, error, warn, info, debug,
        trace, or 0 to 5. None takes the variable ``ICECHUNK_LOG``, or else ``warn``. Where
        directives are given but none is for everything, ``off`` is.

    Notes
    -----
    A directive that cannot be understood is ignored, and named on standard error.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.set_logs_filter("warn,icechunk.transaction=debug")
    >>> icechunk.set_logs_filter(None)
    """
    text = log_filter_directive
    if text is None:
        text = os.environ.get(_VARIABLE, "warn")
    levels = _parse(text)
    for name in _our_loggers():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _our_loggers() -> list[str]:
    known = logging.Logger.manager.loggerDict
    return [name for name in known if name == _ROOT or name.startswith(f"{_ROOT}.")]


def _parse(text: str) -> dict[str, int]:
    """Return the levels of loggers; later directives win."""
    if not text.strip():
        return {_ROOT: logging.ERROR}
    levels = {_ROOT: OFF}
    for directive in filter(None, (part.strip() for part in text.split(","))):
        place, has_level, level_text = directive.partition("=")
        level = _level(level_text if has_level else place)
        if level is not None:
            levels[_logger_name(place) if has_level else _ROOT] = level
        elif not has_level and _PLACE.fullmatch(place):
            levels[_logger_name(place)] = TRACE
        else:
            _report(directive)
    return levels


def _level(text: str) -> int | None:
    text = text.strip().lower()
    return _BY_NUMBER.get(int(text)) if text.isdecimal() else _LEVELS.get(text)


def _logger_name(place: str) -> str:
    first, *rest = place.strip().replace("::", ".").split(".")
    return ".".join([_CRATES.get(first, first), *rest])


def _report(directive: str) -> None:
    message = (
        f"ignoring `{directive}`: a directive is a level (off, error, warn, info, debug, trace or "
        "0-5), a place, or place=level"
    )
    print(message, file=sys.stderr)  # noqa: T201 # as told in the docstring: logs may be off


def shutdown_telemetry() -> None:
    """Write out what messages are still held, and take away what `initialize_logs` added.

    Safe to call more than once.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.shutdown_telemetry()
    """
    logger = logging.getLogger(_ROOT)
    for handler in list(logger.handlers):
        handler.flush()
        if isinstance(handler, _OurHandler):
            logger.removeHandler(handler)
            handler.close()


def user_agent() -> str:
    """Return how this package names itself to servers.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.user_agent().startswith("icechunk-python-")
    True
    """
    return f"icechunk-python-{__version__}"


def print_debug_info() -> None:
    """Print versions of the platform and of what the package works with, for a bug report.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.print_debug_info()  # doctest: +ELLIPSIS
    platform: ...
    """
    print(f"platform:  {platform.platform()}")  # noqa: T201 # what it is for
    print(f"python:  {platform.python_version()}")  # noqa: T201
    print(f"icechunk:  {__version__}")  # noqa: T201
    for name in _PACKAGES_SHOWN:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        print(f"{name}:  {version}")  # noqa: T201


if _VARIABLE in os.environ:
    initialize_logs()
