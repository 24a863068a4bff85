"""The run: schedule, step, checkpoints, log."""
