"""Backups of a service's database and artifacts, and the proof that they can be restored (promise P9).

    command     `python -m raymill.cluster.backup`, which `raymill backup` runs
    create      all of a backup, in a folder that is renamed at the end
    fence       one moment of the database: a snapshot and the place in the WAL that it belongs to
    wal         PostgreSQL's own `pg_basebackup` and `pg_receivewal`, and what their refusals mean
    stream      the WAL as it is written, for what came after the newest backup
    tables      rows and digests of tables, in one statement each
    artifacts   their files: linked to an earlier backup's, or copied
    keys        public halves as they are, everything else sealed with a passphrase
    manifest    what a backup says of itself; which ones there are
    restore     a backup becomes a home; a damaged one is refused
    prove       restored elsewhere and compared, row by row and byte by byte
    schedule    when the next one is due, which ones may go

A restored database is at the moment of its snapshot to the transaction: that is what makes equality provable while
others write. For that, writers wait for some milliseconds (`fence`).
"""
