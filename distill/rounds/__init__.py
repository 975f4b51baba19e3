"""Over and over: curricula, rounds of exam, feedback and training, and the gate that promotes."""
