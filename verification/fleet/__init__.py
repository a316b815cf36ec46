"""What many processes share: real processes, a real Redis, the simulator in its own process."""
