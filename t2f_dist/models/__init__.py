"""Networks, each given its own section of the configuration."""
