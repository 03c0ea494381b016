"""The instrument: what suites measure with, and what is thought and said of what they measured."""

# pytest's plugins of a run of the suites, whoever starts it; one that another imports stands before it.
PLUGINS = (
    "twinvae.bench.options", "twinvae.bench.debugging", "twinvae.bench.compile_cache", "twinvae.bench.plugin",
)  # fmt: skip
