"""A network, its data, its training and its figures, to try jaxscape on."""
