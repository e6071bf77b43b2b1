"""Training: optimiser, step, devices, checkpoints and the loop. It knows a model only as a
`jaxseg.model.Model`."""
