"""The commands of ``python -m facepurify``, one module each."""

from __future__ import annotations

__all__: list[str] = []
