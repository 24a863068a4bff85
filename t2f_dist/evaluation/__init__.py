"""Snapshots -> pictures and numbers."""
