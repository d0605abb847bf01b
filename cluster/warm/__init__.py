"""Processes of heavy jobs as copies of one that has imported what they need.

    server          the warm process: imports, waits, forks
    client          asks it for a copy; Python as usual where nobody answers
    setup_worker    what Ray's head runs in place of its own script of that name
    head            `ray start` with that in place

A training run is seven Ray processes beside its driver, and each would import Ray, torch and transformers: most of the
minute before its first step. The warm process imports all but Ray, which reads what a process belongs to from its
environment as it is loaded, and regopy, which must come after Ray; a copy has what is left in about a second.

`client` and `setup_worker` start with every such process, and so import little and nothing of ours.
"""
