"""`python -m verification.recordings`: what the real exchanges beside the repository hold."""
