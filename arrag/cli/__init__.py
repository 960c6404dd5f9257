"""The command line: it parses arguments, calls one public function and prints the result.

It may import every package; no package and no rule of the workflow imports it. Start reading at
``arrag.cli.main``, which lists the commands; each group is a module with one function per command.
"""

__all__ = ["main"]


def main() -> int:
    """Run the command line; returns the exit status."""
    from arrag.cli.main import main

    return main()
