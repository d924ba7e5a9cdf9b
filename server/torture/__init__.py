"""Does the server keep what it acknowledged? It is killed at random while it is written to."""
