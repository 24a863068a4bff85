"""Measured claims: each one command, each beside what it is compared with."""
