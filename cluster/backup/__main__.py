"""`python -m raymill.cluster.backup`: what `raymill backup` runs."""

from raymill.cluster.backup.command import main

main()
