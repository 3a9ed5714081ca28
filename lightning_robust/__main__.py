"""`python -m lightning_robust` is `lightning-robust`."""

from lightning_robust.cli.main import main

if __name__ == "__main__":
    main()
