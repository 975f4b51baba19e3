"""Runs: what is finished, who works on it, and the traces it leaves."""
