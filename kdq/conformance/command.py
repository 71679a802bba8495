"""`python -m kdq check-plugin`: runs the checks of everything that a plugin adds."""

import argparse
from collections.abc import Mapping
from importlib import import_module

from kdq import plugins
from kdq.conformance.check import Check
from kdq.errors import USER_CODE, first_line


def run(options: argparse.Namespace) -> int:
    """Print every check with its result; return the exit status, 1 if one failed."""
    plugin = plugins.load(options.plugin[0])
    print(f"plugin {plugin.name}, SHA-256 {plugin.sha256}")
    results = [passes(check, member.name, title) for member in plugins.members(plugin) for title, check in _of(member)]
    failed = results.count(False)
    print(f"{failed} of {len(results)} checks failed" if failed else f"all {len(results)} checks passed")
    return 1 if failed else 0


def _of(member: plugins.Member) -> list[tuple[str, Check]]:
    print(f"{member.kind} {member.name}", flush=True)
    checks: Mapping[str, Check] = import_module(member.checks).CHECKS
    return list(checks.items())


def passes(check: Check, name: str, title: str) -> bool:
    """Run a check of a member, print its result in a line, and return whether it passed."""
    try:
        check(name)
    except USER_CODE as error:  # a promise that is broken, or whatever the plugin's code raises
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        print(f"  FAILED  {title}: {kind}{first_line(error)}", flush=True)
        return False
    print(f"  passed  {title}", flush=True)
    return True
