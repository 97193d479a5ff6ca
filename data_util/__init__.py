"""Data sets: from files and tables to dict samples and batches."""
