"""What every direction stands on: episodes, learners, the inner loop, scores, checkpoints."""
