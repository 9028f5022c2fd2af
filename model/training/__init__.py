"""What a training run is made of: options, loss, precision, processes, checkpoints, report."""
