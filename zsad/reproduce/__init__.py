"""One published table: what it takes, made step by step, and laid beside what was printed."""
