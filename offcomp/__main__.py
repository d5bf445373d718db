"""`offcomp` and `python -m offcomp`: the command line, quiet where Ctrl-C comes while its modules are still loaded."""

import signal


def main() -> None:
    """Entry point. See `offcomp.cli.main`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from offcomp.cli import main as verbs

    signal.signal(signal.SIGINT, signal.default_int_handler)
    verbs()


if __name__ == "__main__":
    main()
