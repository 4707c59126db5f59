"""Offers of intermediate checkpoints: placeholder."""
