"""Codecs: pure pairs of encode and decode on torch tensors, in a module named as its tier."""
