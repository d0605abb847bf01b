"""Run code that a model wrote against tests that it must not see, and believe nothing but its answers.

    runner      the evaluator's side: one call, one verdict
    launch      a fresh interpreter: namespaces, then two processes and their end
    solver      holds the program; answers calls
    checker     holds the tests; asks. What it is told is data (`wire`), so no object, patch or exit
                of the program can make an assertion pass
    isolation   namespaces, mounts, identity, capabilities, resources
    seccomp     which system calls are left: no process, no socket, no signal, no other program
    landlock    stands in for namespaces where the kernel grants none

What is enforced where:

    limit                          isolation "full"                      isolation "reduced"
    processes, threads: none       seccomp, RLIMIT_NPROC                 the same
    signals, ptrace, mounts        seccomp, pid and mount namespace      seccomp
    network: none                  seccomp, network namespace            seccomp
    files                          a root of its own: the standard       Landlock: the standard library, read
                                   library, read only; a folder in       only; nothing can be written. That a file
                                   memory, gone afterwards               is there, and its size, can be told
    environment                    empty; no /proc                       empty; no /proc
    identity                       nobody where root, else one's own;    the same
                                   no capability, no new privileges
    memory                         RLIMIT_AS, the folder's size          RLIMIT_AS
    processor, wall-clock time     RLIMIT_CPU, the first process         the same
    output, answers                bytes counted where they are read     the same
    what is left behind            the namespace ends with its first     no process can be started; the two die
                                   process, that with its starter        with the first, that with its starter

Both need Linux on x86-64 or AArch64 with seccomp. Whatever cannot be enforced is refused (`SandboxRefused`);
nothing runs with less than what its `isolation` says.
"""
