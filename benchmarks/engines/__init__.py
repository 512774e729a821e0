"""Where shards are made and scored: on this machine (`local`), on a Ray cluster (`ray`), on a Slurm cluster (`slurm`).

An engine gets tasks and brings back what they give (`base`). It never changes an image or a score: what is computed is
a `Work` (`making`, `scoring`), the same whichever engine runs it; the driver alone writes to the store (`spread`).
One engine, one file; others come by the entry points `concord.engines`.
"""
