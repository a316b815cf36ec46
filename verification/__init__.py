"""Long proofs of what the package promises, each a program of its own: see README.md."""
