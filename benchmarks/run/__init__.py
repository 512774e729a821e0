"""One run: images made shard by shard (`generate`, `workers`), scored (`score`), and what it cost (`meter`).

`image_source` is where images come from, whatever makes them. A killed run goes on at its next shard.
"""
