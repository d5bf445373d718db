"""Entry point of `offcomp` and `python -m offcomp.cli`. Ctrl-C exits quietly even while modules are being imported."""

import gc
import signal


def main() -> None:
    """Entry point. See `offcomp.cli.main.main`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from offcomp.cli.main import main as verbs

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        verbs()
    finally:
        gc.freeze()  # the collection at exit would traverse everything that was read, only for the process to end


if __name__ == "__main__":
    main()
