"""A data set on a page: files, labels, the clips behind them, what a network makes of it."""
