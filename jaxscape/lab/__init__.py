"""The bench around the core: models, data, training, checkpoints, figures."""
