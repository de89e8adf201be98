"""Listeners for events."""
