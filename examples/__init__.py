"""Short programs that a person runs, each run by a test."""
