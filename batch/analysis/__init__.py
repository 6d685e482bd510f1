"""Phase 1: signals, tiers and manifests of videos. NumPy, OpenCV and Arrow; no torch."""
