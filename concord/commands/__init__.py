"""The verbs of the command line, one or a few a module: each reads its arguments, calls a package, prints what came
of it.

`concord.cli` loads a verb's module when it is asked for, so that `concord --help` stays quick. Nothing imports from
here.
"""
