"""One process, very many requests, bad weather, and nothing may grow: `make soak`."""
