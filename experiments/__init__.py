"""Commands that put the package to work: ``python -m experiments.NAME --help``."""
