"""Drawn films that only measuring needs: some hard to see, some hours long."""
