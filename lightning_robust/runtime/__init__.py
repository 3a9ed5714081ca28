"""How a net runs: modes, gradients, precision, ranks and random numbers."""
