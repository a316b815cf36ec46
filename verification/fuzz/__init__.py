"""Malformed answers: what no server should send, and what becomes of it."""
