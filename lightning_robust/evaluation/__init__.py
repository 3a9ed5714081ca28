"""Evaluation of robust accuracy: exact on any number of devices, resumable, and checked for its own soundness."""
