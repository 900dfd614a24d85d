"""Training: the loop, its data, its batches and the command."""
