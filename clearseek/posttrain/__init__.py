"""Post-training: a model modified into another one, with provenance back to it."""
