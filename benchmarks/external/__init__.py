"""Methods that live elsewhere: requests written to a folder, images taken back from it.

`exchange` has the form of the folder, `method` the external method as a row of a suite, `command` runs one by its
command shard by shard, `images` reads what it gave, `transfer` writes and imports whole folders.
"""
