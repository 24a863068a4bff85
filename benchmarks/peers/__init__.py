"""The systems that are compared, each in an environment of its own; the scripts here run there."""
