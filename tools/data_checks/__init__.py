"""What tools/check_data.py is made of: kinds of defects, readers, checks of sets, the report. No torch."""
