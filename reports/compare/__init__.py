"""A change of the code measured: results against a committed baseline, request by request.

`baseline` writes and reads `reports/baseline/`, `sides` opens what is compared, `comparison` tests the differences,
`margins` says how large one has to be to matter, `render` prints, `git` and `history` read older revisions.
"""
