"""Judges of compression that are no toys: real weights, real text and real pictures.

Not part of the product, and nothing of it is needed to use the product: `make judges` fetches
what they need into `build/judges`.
"""
