"""Showing how far long operations are: a bar in the terminal or the notebook, or log lines.

Libraries stay silent unless they are asked: every ``progress`` parameter is False by default. True
shows a bar, and a function of one event (see `icechunk.events`) gets told instead.
"""

from __future__ import annotations

import html
import logging
import sys
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from icechunk._units import bytes_text, count_text, seconds_text
from icechunk.events import (
    NOTHING,
    Advanced,
    Amount,
    Committed,
    Event,
    Failed,
    Finished,
    Observer,
    Started,
    UnitFailed,
    UnitFinished,
    UnitStarted,
    ignored,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

ProgressOption: TypeAlias = "bool | Observer | None"
"""A ``progress`` parameter: False or None for nothing, True for a bar, or an observer."""

SHORT_ID: Final = 12
"""Characters of an operation's id; it need only be told from its neighbours in a log."""

_SECONDS_BETWEEN_PICTURES: Final = 0.1
_BAR_WIDTH: Final = 24
_LEAST_BAR_WIDTH: Final = 10

_logger = logging.getLogger(__name__)


# -- telling ----------------------------------------------------------------------------------


class Operation:
    """Tells an observer how far one operation is; made by `operation`.

    Parameters
    ----------
    job_id : str
        Names the operation in its events.
    observer : Observer
        Is told.
    """

    __slots__ = ("_began", "_observer", "done", "job_id")

    def __init__(self, job_id: str, observer: Observer) -> None:
        self.job_id = job_id
        self.done = NOTHING
        self._observer = observer
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    def advance_to(self, done: Amount) -> None:
        """Tell what is done by now."""
        self.done = done
        self._observer(Advanced(job_id=self.job_id, done=done))

    def tell(self, event: Event) -> None:
        """Tell something else."""
        self._observer(event)


@contextmanager
def operation(
    progress: ProgressOption,
    label: str,
    total: Amount = NOTHING,
    *,
    job_id: str | None = None,
    done: Amount = NOTHING,
) -> Iterator[Operation]:
    """Tell that an operation starts, how far it is, and how it ends.

    Parameters
    ----------
    progress : bool or Observer or None
        Who is told: nobody, a bar, or an observer.
    label : str
        What is done, for people.
    total : Amount
        What it will come to, as far as it is known.
    job_id : str, optional
        Names the operation; random when omitted.
    done : Amount
        What was done before.

    Yields
    ------
    Operation
        To tell how far it is.
    """
    with shown(progress) as observer:
        running = Operation(job_id or uuid.uuid4().hex[:SHORT_ID], observer)
        running.done = done
        observer(Started(job_id=running.job_id, label=label, total=total, done=done))
        try:
            yield running
        except BaseException as error:
            observer(
                Failed(
                    job_id=running.job_id,
                    error=str(error) or type(error).__name__,
                    done=running.done,
                    seconds=running.seconds,
                )
            )
            raise
        observer(Finished(job_id=running.job_id, done=running.done, seconds=running.seconds))


@contextmanager
def shown(progress: ProgressOption, console: Console | None = None) -> Iterator[Observer]:
    """Turn a ``progress`` parameter into an observer, and show a bar while the block lasts.

    Parameters
    ----------
    progress : bool or Observer or None
        True for a bar.
    console : rich.console.Console, optional
        Where a bar goes; standard error when omitted, or the notebook.

    Yields
    ------
    Observer
        To be told.
    """
    if callable(progress):
        yield progress
    elif not progress:
        yield ignored
    else:
        bar = ProgressBar(console)
        try:
            yield bar
        finally:
            bar.close()


# -- log lines --------------------------------------------------------------------------------


def logged(event: Event) -> None:
    """Write an event to the log of this module; an observer like any other.

    Every line begins with the ids of the job and the unit, as ``job=... unit=...``. Failures are
    warnings, commits and units are at level INFO, and how far it is at level DEBUG.
    """
    ids = f"job={event.job_id}"
    unit_id = getattr(event, "unit_id", None)
    if unit_id is not None:
        ids += f" unit={unit_id}"
    level, text = _log_line(event)
    _logger.log(level, "%s %s", ids, text)


def _log_line(event: Event) -> tuple[int, str]:
    level = logging.INFO
    match event:
        case Started():
            text = f"started: {event.label}, {_amount_text(event.total) or 'size unknown'}"
        case Advanced():
            level, text = logging.DEBUG, f"done: {_amount_text(event.done)}"
        case UnitStarted():
            text = f"unit started: {event.label}, attempt {event.attempt}"
        case UnitFinished():
            text = f"unit written: {_amount_text(event.amount)} in {seconds_text(event.seconds)}"
        case UnitFailed():
            what = "will be tried again" if event.will_retry else "given up"
            level = logging.WARNING
            text = f"unit failed, {what}, attempt {event.attempt}: {event.error}"
        case Committed():
            units = f", units {' '.join(event.unit_ids)}" if event.unit_ids else ""
            text = f"committed {event.snapshot_id} to {event.branch}{units}"
        case Finished():
            text = f"finished: {_amount_text(event.done)} in {seconds_text(event.seconds)}"
        case Failed():
            level = logging.WARNING
            text = f"failed after {seconds_text(event.seconds)}: {event.error}"
    return level, text


def _amount_text(amount: Amount) -> str:
    counts = (
        (amount.units, "unit"),
        (amount.tasks, "task"),
        (amount.chunks, "chunk"),
        (amount.objects, "object"),
    )
    parts = [count_text(number, noun) for number, noun in counts if number]
    if amount.size_bytes:
        parts.append(bytes_text(amount.size_bytes))
    return ", ".join(parts)


# -- the bar ----------------------------------------------------------------------------------


class _Picture(Protocol):
    def draw(self, state: BarState) -> None: ...

    def close(self) -> None: ...


class BarState:
    """What a bar shows: how much of how much, how fast, how long still.

    Parameters
    ----------
    started : Started
        The operation.
    """

    __slots__ = ("_began", "_ended", "_had", "done", "failed", "label", "total")

    def __init__(self, started: Started) -> None:
        self.label = started.label
        self.total = started.total
        self.done = self._had = started.done
        self.failed = False
        self._began = (time.monotonic(), self._progress())
        self._ended: float | None = None

    def _progress(self) -> float:
        for name in ("size_bytes", "chunks", "units", "objects"):
            if total := getattr(self.total, name):
                fraction: float = getattr(self.done, name) / total
                return min(fraction, 1.0)
        return 0.0

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1; 0 as long as that is unknown."""
        return 1.0 if self._ended is not None and not self.failed else self._progress()

    @property
    def known(self) -> bool:
        """Whether it is known what it will come to."""
        return any(
            getattr(self.total, name) for name in ("size_bytes", "chunks", "units", "objects")
        )

    @property
    def seconds(self) -> float:
        """How long it took so far, or altogether."""
        return (self._ended or time.monotonic()) - self._began[0]

    def end(self, *, failed: bool) -> None:
        """Stop the clock."""
        self._ended, self.failed = time.monotonic(), failed

    def texts(self) -> tuple[str, ...]:
        """Return amounts, rate and time left, each as text for people."""
        parts = []
        if self.done.size_bytes or self.total.size_bytes:
            parts.append(_of(self.done.size_bytes, self.total.size_bytes, bytes_text))
        for name in ("chunks", "units", "objects"):
            done, total = getattr(self.done, name), getattr(self.total, name)
            if done or total:
                noun = name.removesuffix("s") if (total or done) == 1 else name
                parts.append(f"{_of(done, total, '{:,}'.format)} {noun}")
        took = self.seconds
        gained = self.done.size_bytes - self._had.size_bytes
        if gained > 0 and took > 0:
            parts.append(f"{bytes_text(gained / took)}/s")
        if self._ended is not None:
            word = "failed after" if self.failed else "in"
            parts.append(f"{word} {seconds_text(took)}")
        elif (left := self._seconds_left()) is not None:
            parts.append(f"{seconds_text(round(left))} left")
        return tuple(parts)

    def _seconds_left(self) -> float | None:
        gained = self._progress() - self._began[1]
        if gained <= 0:
            return None
        return self.seconds * (1 - self._progress()) / gained


def _of(done: int, total: int, text: Any) -> str:
    return f"{text(done)} of {text(total)}" if done < total else str(text(done))


class ProgressBar:
    """Shows the operation it is told of: bytes, chunks, rate and time left.

    It is an observer, to be closed in the end. In a notebook it is an HTML bar, in a terminal one
    of characters, and elsewhere, such as in the log of a batch job, one line in the end.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where it goes; standard error when omitted, or the notebook.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._picture: _Picture | None = None
        self._state: BarState | None = None
        self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Started():
                self._state = BarState(event)
                self._picture = self._picture or _picture(self._console)
                self._draw(at_once=True)
            case Advanced():
                self._advance(event.done)
            case Finished():
                self._advance(event.done, ended=True)
            case Failed():
                self._advance(event.done, ended=True, failed=True)
            case _:
                pass

    def _advance(self, done: Amount, *, ended: bool = False, failed: bool = False) -> None:
        if self._state is None:
            return
        if done != NOTHING:
            self._state.done = done
        if ended:
            self._state.end(failed=failed)
        self._draw(at_once=ended)

    def _draw(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if self._picture is None or self._state is None:
            return
        if at_once or now - self._drawn >= _SECONDS_BETWEEN_PICTURES:
            self._drawn = now
            self._picture.draw(self._state)

    def close(self) -> None:
        """Leave the last picture where it is."""
        if self._picture is not None:
            self._picture.close()
            self._picture = None


def _picture(console: Console | None) -> _Picture:
    if console is None and _in_notebook():
        return _NotebookPicture()
    # Deferred: only who asks for a bar pays for it.
    from rich.console import Console  # noqa: PLC0415

    target = console or Console(stderr=True, highlight=False)
    return _TerminalPicture(target) if target.is_terminal else _LinePicture(target)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    # The terminal's IPython can show no HTML.
    return shell is not None and hasattr(shell, "kernel")


class _TerminalPicture:
    def __init__(self, console: Console) -> None:
        from rich.live import Live  # noqa: PLC0415

        self._live = Live(console=console, refresh_per_second=10)
        self._live.start()

    def draw(self, state: BarState) -> None:
        from rich.progress_bar import ProgressBar as Bar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        room = self._live.console.width - len(state.label) - 3
        parts = list(state.texts())
        while len(parts) > 2 and len(", ".join(parts)) + _LEAST_BAR_WIDTH > room:
            del parts[1]  # amount, rate and time left tell most
        text = Text(", ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")
        row = Table.grid(padding=(0, 1))
        bar = Bar(
            total=1.0 if state.known or state.fraction else None,
            completed=state.fraction,
            width=min(_BAR_WIDTH, max(_LEAST_BAR_WIDTH, room - len(text))),
            pulse=not state.known and not state.fraction,
        )
        row.add_row(Text(state.label, no_wrap=True), bar, text)
        self._live.update(row, refresh=True)

    def close(self) -> None:
        self._live.stop()


class _LinePicture:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def draw(self, state: BarState) -> None:
        self._last = f"{state.label}: {', '.join(state.texts())}"

    def close(self) -> None:
        if self._last:
            self._console.print(self._last, soft_wrap=True, markup=False)


class _NotebookPicture:
    def __init__(self) -> None:
        from IPython.display import display  # noqa: PLC0415

        show: Any = display  # IPython has no types here
        self._handle: Any = show({"text/plain": ""}, raw=True, display_id=True)

    def draw(self, state: BarState) -> None:
        texts = ", ".join(state.texts())
        value = f' value="{state.fraction:.4f}"' if state.known or state.fraction else ""
        self._handle.update(
            {
                "text/plain": f"{state.label}: {texts}",
                "text/html": (
                    f'<div class="icechunk-progress">{html.escape(state.label)} '
                    f"<progress{value}></progress> {html.escape(texts)}</div>"
                ),
            },
            raw=True,
        )

    def close(self) -> None:
        """Leave the last picture where it is."""
