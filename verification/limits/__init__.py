"""Batches under rate limits, in virtual time: the real SDK, the simulator, and what is possible."""
