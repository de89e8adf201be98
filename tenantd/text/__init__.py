"""Conversion between text and token ids: vocabularies, chat templates, incremental decoding, grammars."""
