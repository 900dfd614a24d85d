"""Networks prepared for sampling: the same velocities, with what sampling repeats taken out and weights packed once."""
