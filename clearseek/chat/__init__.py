"""Conversations as tokens: one template for serving, supervised fine-tuning and reinforcement learning."""
