"""The commands of `python -m analysis`: one module each, with what `Command` asks for. Nothing heavy is imported."""
