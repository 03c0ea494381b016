"""The instrument: what suites measure with, and what is thought and said of what they measured."""
