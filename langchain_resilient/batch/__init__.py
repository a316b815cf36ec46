"""Many prompts through one model: workers, order, progress, reports."""
