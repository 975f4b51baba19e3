"""Adapters on disk: what they were made of, who uses them, how they differ and merge."""
