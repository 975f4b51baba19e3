"""Which of several is better, if that can be said."""
