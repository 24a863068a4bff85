"""Shards -> what they hold, counted and shown, and whether they still hold it. Nothing here is trained or written."""
