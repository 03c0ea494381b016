"""Generation: stages, their programs by compilers, and what comes of both VAEs at their end."""
