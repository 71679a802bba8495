"""The words for how a trial ended."""

FINAL = ("completed", "stopped", "diverged")
"""Ends that are results. Trials that end otherwise are tried again when the study is run again."""

LEFT = ("stopped", "diverged")
"""Ends that leave one for nobody: a trial that was completed has none, one that failed goes on from its own."""

OPEN = ("running", "paused")
"""Trials that the end of the command has interrupted."""

FAILED = ("diverged", "out_of_memory", "failed")
