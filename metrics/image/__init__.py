"""Metrics of two images of one item, pixel by pixel or by a network's features: PSNR, SSIM, LPIPS.

Each is a `SampleMetric` under its name in the registry. `pairs` finds the originals, `resize` brings both to one
size, `perceptual` is the distance that the embedded and the published LPIPS share.
"""
