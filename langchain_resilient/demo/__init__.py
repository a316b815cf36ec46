"""`langchain-resilient demo`: three providers misbehave, and two chat models live through it."""
