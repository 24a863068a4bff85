"""Snapshot -> pictures and numbers."""
