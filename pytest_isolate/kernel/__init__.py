"""One module per kernel facility, thin and typed: mechanism only, no policy.

Names keep the kernel's spelling, failures are `OSError` with the errno and the path. Nothing here imports
more than the standard library, because the builder and the forked test process load it.
"""
