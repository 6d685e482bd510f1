"""Codecs: pure pairs of encode and decode on torch tensors, one file each."""
