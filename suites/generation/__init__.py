"""Generation: a prompt to a video in stages, held to diffusers' own pipelines; their programs, by compilers."""
