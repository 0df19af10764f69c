"""What tools/gpu_check.py is made of: sections of checks, how they are run, the report."""
