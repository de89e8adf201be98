"""Tenants and their keys, and the in-memory directory of both for the request path."""
