"""Which rows to learn from: each selector scores rows, and has a shuffled control."""
