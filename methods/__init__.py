"""Methods: one paper, one file, over the mathematics that they share."""
