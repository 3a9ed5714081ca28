"""Adversarial robustness on PyTorch Lightning."""
