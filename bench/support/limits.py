"""What PyTorch's sides of benchmarks share: a line of progress on a terminal, and work that may take so long and no longer."""

import gc
import signal
import sys

import torch


def log(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Overtime(Exception):
    pass


def within(seconds, work):
    """Runs it; None where it ended well, otherwise why not."""

    def ring(*_):
        raise Overtime(f"took longer than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(max(1, int(seconds)))
    try:
        work()
        return None
    except Exception as error:  # whatever a library raises is the result
        return f"{type(error).__name__}: {error}".split("\n")[0][:300]
    finally:
        signal.alarm(0)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
