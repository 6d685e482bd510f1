"""Codecs: pure pairs of encode and decode on torch tensors, a file for each stored tier.

A module has the name of its tier; `quantising` is what several of them use.
"""
