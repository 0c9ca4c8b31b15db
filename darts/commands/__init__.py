"""The commands of `python -m darts`: one module each, found by itself.

A command is a module with a docstring (its first line is the help), `add_arguments(parser)` and
`run(arguments) -> int`, the exit status.
"""
