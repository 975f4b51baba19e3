"""The blackboard: posts, channels, keys, trust, and what follows from what."""
