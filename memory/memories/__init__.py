"""Memories that live on a board: write, read within a budget, evict."""
