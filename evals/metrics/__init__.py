"""What else than accuracy can be measured: calibration, diversity, coordination, forgetting."""
