"""Memory: ceilings of peak memory by compilers that are run without the device, and what this machine measures."""
