"""Requests that name no addressee, and the claims of those who volunteer."""
