"""One bar for the whole run, with the time that is left."""

from __future__ import annotations

from types import TracebackType

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """Counts passes of an image through a network, done and to do; use as a context manager."""

    def __init__(self) -> None:
        self._bar = tqdm(total=0, unit="pass", unit_scale=True, smoothing=0.05)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def phase(self, text: str) -> None:
        """Say what is being done now."""
        self._bar.set_description(text)

    def expect(self, passes: int) -> None:
        """Add passes that are to come, as if nothing were cached."""
        self._bar.total += passes
        self._bar.refresh()

    def done(self, passes: int) -> None:
        """Count passes just made."""
        self._bar.update(passes)

    def found(self, passes: int) -> None:
        """Take passes that turned out to be cached off the total, so that the time left holds."""
        self._bar.total -= passes
        self._bar.refresh()
