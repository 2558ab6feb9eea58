"""Cost of a model: parameters, multiply-adds, activations, time and memory, by part."""
