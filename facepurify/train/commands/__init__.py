"""The commands of ``python -m facepurify.train``, a module for each kind."""
