"""Asking a subject all items of a task, and what came of it."""
