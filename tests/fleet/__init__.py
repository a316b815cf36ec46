"""What the processes of a fleet share, with a Redis server of the tests' own."""
