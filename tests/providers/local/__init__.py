"""The local model: its weights, its dialect, llama.cpp in this process, and the provider."""
