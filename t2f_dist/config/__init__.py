"""Typed configuration: what can be set, and how a YAML file and `--set` fill it."""
