"""Result files of training runs and benchmarks -> a table on stdout and one self-contained HTML page."""
