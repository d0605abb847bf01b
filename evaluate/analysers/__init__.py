"""What real analysers say of code: facts that stand beside what a model says, and that no text in the code can change.

    runner        the service's side: one long-lived process for each pool, replaced when it dies or takes too long
    worker        that process: bandit, flawfinder, our patterns and the parsers, used as libraries; confined
    languages     which language a file is in
    grammars      does it parse, and where not
    bandit_rules, flawfinder_rules, ruff_rules, patterns
                  each tool's findings, in one form
    findings      that form; merged by line and CWE; the difference between two analyses

Nothing that is analysed is run. Comments that switch rules off (`# nosec`, `# noqa`, `Flawfinder: ignore`) are not
heeded: whoever wrote the code does not decide what is found in it.
"""
