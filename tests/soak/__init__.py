"""`python -m tests.soak`: one process, very many requests, bad weather, and nothing may grow."""
