"""Who may send frames and read verdicts. Knows nothing of frames, verdicts or databases."""
