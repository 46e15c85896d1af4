"""Given two face images, which person is older? Shared code of the notebooks."""
