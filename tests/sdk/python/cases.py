"""Runs the functions of a script whose names begin with `case_` and `fault_`, and tells which failed.

A fault is the provider's own: a gateway remembers it for a while. So the environment can choose one (`FAULT`, which
may be empty for none) to be tried by itself.
"""

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


def direct():
    """Whether there is no gateway in between, so that what it does not serve can be tried too."""
    return "GATEWAY" not in os.environ


@contextmanager
def raises(kind, check=lambda fault: None):
    try:
        yield
    except kind as fault:
        check(fault)
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def chosen(name):
    fault = os.environ.get("FAULT")
    if name.startswith("fault_"):
        return fault is None or name == f"fault_{fault}"
    return name.startswith("case_") and not fault


def run(names):
    failed = []
    for name, case in sorted(names.items()):
        if not chosen(name):
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
