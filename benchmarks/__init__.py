"""What limits training on this machine, measured."""
