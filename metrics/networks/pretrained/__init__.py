"""Networks at the papers' scale, one family a file, loaded from local files in the form their authors publish."""
