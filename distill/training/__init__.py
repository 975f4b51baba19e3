"""From rows to weights: batches, trainers, checkpoints, and the check that something was learnt."""
