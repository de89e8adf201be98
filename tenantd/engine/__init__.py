"""The engine: the token loop around llama.cpp and the pure rooms it is made of."""
