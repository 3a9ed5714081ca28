"""The command line `lightning-robust`: training, evaluation, recipes and publishing."""
