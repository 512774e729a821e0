"""Guidance by energies: what FreeDoM, UGD and Z-Magic share.

`method` is the loop over the steps, `energies` what each condition asks of the image through a guide network,
`cagrad` one direction out of several gradients, `autodiff` products with a network's derivatives.
"""
