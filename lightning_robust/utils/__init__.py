"""Helpers without a home in one room: checks of inputs, parts of error messages, files and optional packages."""
