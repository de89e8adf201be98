"""HTTP on the Unix socket: who is asking, OpenAI's routes, administration, health and metrics."""
