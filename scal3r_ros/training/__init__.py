"""The procedural world, losses and the training loop."""
