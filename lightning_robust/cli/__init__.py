"""The command line `lightning-robust`."""
