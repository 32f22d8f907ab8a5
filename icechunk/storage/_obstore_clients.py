"""The stores of obstore that are open in this process, and the credentials they are handed."""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from icechunk._io.flight import Flight
from icechunk.storage._object_requests import ExpiredCredentialsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from icechunk.storage._object_requests import ObjectReads
    from icechunk.storage._obstore import Stores

T = TypeVar("T")
R = TypeVar("R", bound="ObjectReads")

_KEPT: Final = 16
# obstore's threads let go of what they handed to Python a moment after a request is over. One that
# does so when the interpreter is gone aborts the process (one in six that end with their last
# request, on a busy machine), so they are given that moment.
_REST_AT_EXIT_SECONDS: Final = 0.05


class Given(Protocol):
    """Hands obstore credentials."""

    async def ready(self) -> Any:
        """Get those to use now, and return something that tells them from others."""

    async def renew(self, seen: Any) -> bool:
        """Get others than ``seen``; False when there can be none."""

    def __call__(self) -> Any:
        """Return what ``ready`` got, without waiting, in the form that obstore wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStores:
    """The stores of one place, and the credentials they are given.

    Parameters
    ----------
    stores : Stores
        They belong to no loop.
    given : Given or None
        None for unsigned requests.
    """

    stores: Stores
    given: Given | None

    async def lend(self, requests: R, work: Callable[[R], Awaitable[T]]) -> T:
        """Do work with requests to the stores; once more if other credentials may be taken."""
        given = self.given
        if given is None:
            return await work(requests)
        seen = await given.ready()
        try:
            return await work(requests)
        except ExpiredCredentialsError:
            if not await given.renew(seen):
                raise
        return await work(requests)


class _Clients:
    """Open stores by recipe, shared by the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, OpenStores] = OrderedDict()
        self._opening: Flight[object, OpenStores] = Flight()
        self._ends_gently = False

    async def get(
        self, recipe: object, open_stores: Callable[[], Awaitable[OpenStores]]
    ) -> OpenStores:
        """Return the stores of a recipe, opened if there are none yet."""
        with self._lock:
            found = self._kept.get(recipe)
            if found is not None:
                self._kept.move_to_end(recipe)
                return found
        made = await self._opening.share(recipe, open_stores)
        with self._lock:
            if not self._ends_gently:
                self._ends_gently = True
                atexit.register(time.sleep, _REST_AT_EXIT_SECONDS)
            self._kept[recipe] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


clients: Final = _Clients()
