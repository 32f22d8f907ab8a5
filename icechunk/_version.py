"""The one place that holds the version of this package."""

from __future__ import annotations

from typing import Final

__version__: Final = "2.0.0"
