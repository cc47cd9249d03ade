"""What is said of versions after they were made: scores, verdicts, steps, sheets. Never imports torch."""
