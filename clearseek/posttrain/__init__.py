"""Modifying a trained model: fine-tuning, distillation, and reinforcement learning with rewards that can be checked."""
