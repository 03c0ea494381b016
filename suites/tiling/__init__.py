"""Tiling: diffusers' tiled results on every edge of a grid; blends, seams, and the time that tiling costs."""
