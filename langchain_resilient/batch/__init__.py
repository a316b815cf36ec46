"""Batches: many prompts through one model, and nothing lost."""
