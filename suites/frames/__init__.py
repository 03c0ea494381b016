"""Frames: every frame count, streams and their conv caches, causality, what a clip's length becomes."""
