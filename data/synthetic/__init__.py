"""SynthFaces."""
