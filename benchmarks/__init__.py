"""Benchmarks: kept, rerun, and written down in docs/performance.md. Run one at a time on a quiet machine."""
