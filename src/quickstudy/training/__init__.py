"""Training, evaluation and use of any learner."""
