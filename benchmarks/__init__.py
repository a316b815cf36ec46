"""Measurements, a command each."""
