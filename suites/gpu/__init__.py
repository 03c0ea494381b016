"""A run on a card: parity, speed and memory, in steps of their own processes, within a budget."""
