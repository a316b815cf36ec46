"""Recorded exchanges: how they are kept, cleaned, replayed, and recorded anew (`make record`)."""
