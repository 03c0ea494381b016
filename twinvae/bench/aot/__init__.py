"""Compilers without their devices: what they say of a program, and how it is remembered."""
