"""Random and fixed changes of training images."""
