"""Scaling: decoding on many devices, by compilers' word: what a device takes and sends, and how much faster that is."""
