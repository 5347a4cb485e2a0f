"""Runs the functions of a script whose names begin with `case_`, all of them, and tells which failed."""

import os
import sys
import time
import traceback
from contextlib import contextmanager

# Enough words that a stream is still under way when it is left.
LONG = "word " * 400


def model(default):
    """The model to ask: what the environment names, or the provider's own."""
    return os.environ.get("MODEL", default)


def native():
    """Whether the provider's own model is asked, so that what only it has can be tried too."""
    return "MODEL" not in os.environ


@contextmanager
def raises(kind, check=lambda fault: None):
    try:
        yield
    except kind as fault:
        check(fault)
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def run(names):
    failed = []
    for name, case in sorted(names.items()):
        if not name.startswith("case_"):
            continue
        started = time.monotonic()
        try:
            case()
            print(f"ok {name} {time.monotonic() - started:.2f}s", flush=True)
        except Exception:
            failed.append(name)
            print(f"FAILED {name}", flush=True)
            traceback.print_exc()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
