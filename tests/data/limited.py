"""Calls in a process whose address space is bounded, forked from a server that has imported all."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # noqa: F401
import numpy as np
import pytest
import torch

import univa.data.importers.convert
import univa.data.importers.csd
import univa.data.importers.table  # noqa: F401
from univa.errors import UserError

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def call_within(more: int, function: Callable[..., Any], *args: Any) -> str:
    """Call a function that may take `more` bytes beside what the imports have taken.

    Returns:
        "" or the text of the UserError; any other error, or a minute without an end, fails.
    """
    if sys.platform != "linux":
        pytest.skip("address-space limits are Linux's")
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_call, args=(theirs, more, function, *args))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(60) else pytest.fail("no end after a minute")
    except EOFError:
        process.join(10)
        return pytest.fail(f"the process died ({process.exitcode}), its error is above")
    finally:
        process.kill()
        process.join()


def _call(result: Any, more: int, function: Callable[..., Any], *args: Any) -> None:
    torch.set_num_threads(1)  # the stack of each thread would count, of as many as there are cores
    # What is freed goes back to the system. Else holes between blocks count as well, and how many
    # there are depends on what the process did before.
    with contextlib.suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        np.empty(more // 4)  # the limit holds: such an array does not fit
    except MemoryError:
        pass
    else:
        raise AssertionError("the limit does not hold")
    try:
        function(*args)
    except UserError as error:
        result.send(str(error))
    else:
        result.send("")
