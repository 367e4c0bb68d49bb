"""File layouts, a module each: our own, and those of public benchmarks."""
