"""The commands of ``python -m facepurify.train``, a module for each kind."""

from __future__ import annotations

__all__: list[str] = []
