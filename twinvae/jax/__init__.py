"""A backend on JAX from two pure functions: its loops, plans, memory and programs."""
