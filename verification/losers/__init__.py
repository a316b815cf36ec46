"""Losers stop generating: a real llama.cpp server is raced, and its own metrics are read."""
