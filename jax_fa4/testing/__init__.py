"""What tests and benchmarks share: inputs, expected results, tolerances, timing."""
