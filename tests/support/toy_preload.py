"""What the server of forked processes imports once (tests/pipeline/test_kill.py)."""

import toy_world

toy_world.preload()
