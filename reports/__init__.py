"""Tables, figures and comparisons, made from stored results alone."""
