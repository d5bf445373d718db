"""The command line, started by `offcomp` or `python -m offcomp.cli`. Ctrl-C exits quietly even while modules are loading."""

import signal


def main() -> None:
    """Entry point. See `offcomp.cli.main.main`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from offcomp.cli.main import main as verbs

    signal.signal(signal.SIGINT, signal.default_int_handler)
    verbs()


if __name__ == "__main__":
    main()
