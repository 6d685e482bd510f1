"""The demo world and how the bundled model learned it.

Short videos with a ground truth, questions about them, and the program that trained the
checkpoint in `batch/models/demo`. Nothing outside this package knows the world; the product
sees its videos as ordinary files and its model as an ordinary checkpoint.
"""
