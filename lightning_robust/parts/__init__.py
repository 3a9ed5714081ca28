"""Parts that any defense may be given: regularizers, weights of samples, weight perturbations, per-sample memory."""
