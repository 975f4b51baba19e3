"""From traces to rows: builders, trees of turns with their values, and what rows were made of."""
