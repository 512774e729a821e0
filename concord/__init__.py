"""The command line of Concord."""
