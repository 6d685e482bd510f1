"""What compression costs and buys, measured against the same model without it."""
