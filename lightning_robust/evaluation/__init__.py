"""Robust accuracy of a set of samples: exact on any number of devices, resumable, and checked itself."""
