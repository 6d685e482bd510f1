"""What was stored, shown to people."""
