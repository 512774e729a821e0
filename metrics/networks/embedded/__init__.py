"""The small judges of the embedded profile: parser, features, text and image, identity, landmarks, perceptual
distance.

Their weights are in `data/weights/`, their trainings in `concord.methods.training`. Only profiles load them.
"""
