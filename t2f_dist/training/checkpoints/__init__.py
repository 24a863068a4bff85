"""The state of a run: copied, written, kept, found again."""
