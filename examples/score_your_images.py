"""Score images of your own against the masks and captions that they were asked for.

python examples/score_your_images.py [folder]
"""

import sys
from pathlib import Path

from PIL import Image

import concord

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
made = concord.run("face-generation", methods=["mask-only"], limit=4, results=folder)

# Stand-ins for images of your own: any folder of PNG, JPEG, WebP, BMP or TIFF files.
samples = folder / "samples"
samples.mkdir(parents=True, exist_ok=True)
for request, pixels in made.images("mask-only").items():
    Image.fromarray(pixels).save(samples / f"{request}.png")

captions = ["A young woman with black hair."] * len(made.images("mask-only"))
scored = concord.evaluate(generated=samples, conditions=captions, metrics="text-similarity", profile="embedded")
print(scored.frame())
