"""What is asked: sources of questions, splits that share none of them, and scorers."""
