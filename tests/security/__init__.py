"""Secrets, redirects, private files, dangerous calls, and time that jumps."""
