"""Checks of input, parts of messages, files that are written whole."""
