"""How a net runs while it is attacked: modes, gradients, precision, batch norms, ranks and random numbers."""
