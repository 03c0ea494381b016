"""Generation: a prompt to a video in stages, each and all of them against diffusers' own pipelines."""
