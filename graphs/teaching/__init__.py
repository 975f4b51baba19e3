"""Learning by teaching: explanations are judged by how well students do with them in an exam."""
