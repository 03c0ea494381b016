"""pytest for the whole project: the suites' options and records (unit tests under `tests/` take neither)."""

pytest_plugins = ["suites.harness.options", "suites.harness.plugin"]
