"""Given two face images, which person is older? Each room is a package of its own (see README)."""

__version__ = "0.2.0"
