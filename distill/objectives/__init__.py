"""What is minimised: losses over labels, paths and hidden states, which can be added up."""
