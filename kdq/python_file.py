"""A Python file that its user named, run from content that was read once, so that what is hashed is what runs."""

import sys
from hashlib import sha256
from types import ModuleType


def execute(content: bytes, path: str, prefix: str) -> ModuleType:
    """Run the content of a Python file as a module of its own; no __pycache__ is read or written.

    path: of the file, for tracebacks; prefix: of the module's name, which ends in digits of the content's SHA-256.
    Raises what compiling or running it raises.
    """
    module = ModuleType(f"{prefix}{sha256(content).hexdigest()[:16]}")
    module.__file__ = path
    # Dataclasses and pickles look their module up by its name.
    sys.modules[module.__name__] = module
    exec(compile(content, path, "exec", dont_inherit=True), module.__dict__)
    return module
