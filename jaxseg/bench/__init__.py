"""`jaxseg bench`: how fast this machine is at what jaxseg does, beside torchvision where it is.

It needs JAX, Flax, Optax and NumPy (and jaxtyping, which all of jaxseg imports), since a machine
with a GPU may have no more. What needs another package imports it when it runs, and is skipped
without it.

Terms:
    group   the measurements of one kind, such as the operations or the training step
    case    one thing that is measured: a row of a table for each side
    side    one implementation of a case: jaxseg or torchvision
    peer    torchvision, where it is a side
"""
