"""Fetching: what a manifest names comes into the cache whole, verified, or not at all.

`manifest` reads `data/manifests/*.yaml` and finds what was fetched (`weight_file`, `fetched_file`) without a
connection; `fetch.Fetcher` brings it; `transfer` moves one file over HTTP and goes on after a cut; `unpack` opens
archives that others made. Everything else imports `manifest` alone.
"""
