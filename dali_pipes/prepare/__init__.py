"""Make and check training data: `python -m dali_pipes.prepare --help`."""
