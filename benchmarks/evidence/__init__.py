"""Does pre-training help? plan: what is done; work: doing it; tables: what came of it."""
