"""Other harnesses: their models on this engine, their logs in and out."""
