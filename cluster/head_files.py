"""The file by which a head tells its supervisor that its raylet has registered. Apart, for `ray start` imports nothing else of ours."""

ALIVE = "alive"
"""In the head's `--temp-dir`."""
