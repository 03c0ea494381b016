"""The suites on trial: faults and mutants that they must see, and unchanged code that they must not blame."""
