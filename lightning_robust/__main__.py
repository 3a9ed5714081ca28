"""`python -m lightning_robust` is `lightning-robust`."""

from lightning_robust.cli.main import console

if __name__ == "__main__":
    console()
