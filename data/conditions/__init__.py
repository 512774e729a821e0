"""What an image can be asked to agree with: one file a condition (base.py says what a condition is)."""
