"""Where runs lie on disk: `run` reads one, `shards` holds its images, `lock` keeps a second writer out, `provenance`
says by what and where it was made.

Reports read through `run.Run` alone. A file is the old one or the whole new one, whenever the program was stopped.
"""
