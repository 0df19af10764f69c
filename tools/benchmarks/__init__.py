"""What tools/benchmark.py is made of: cases and peers of each op, the clock, the report."""
