"""How a net runs: modes, gradients, precision, batch norms, ranks and random numbers."""
