"""How the bundled model was trained, and trains again from a seed."""
