"""The benchmark: attacks on face recognizers, purifiers in front of them, what is left of both.

Run as ``python -m facepurify.bench``. Needs the ``bench`` extra.
"""

__all__: list[str] = []
