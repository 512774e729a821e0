"""Without a network: one try, one line, in seconds, whatever is nested around the error of the wire."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path

import pytest
import requests
import urllib3

from concord.data.download.transfer import UNREACHABLE, Fault, _network_faults, unreachable

POOL = urllib3.HTTPSConnectionPool("a.host.of.nobody.invalid")


def nested(inner: BaseException) -> requests.ConnectionError:
    """As requests raises it: the pool's error around the cause, in its arguments alone."""
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(POOL, "/", inner))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (nested(socket.gaierror(-2, "Name or service not known")), True),
        (nested(OSError(errno.ENETUNREACH, "Network is unreachable")), True),
        (nested(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), False),
        (nested(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")), False),
    ],
)
def test_what_no_waiting_mends_is_lasting(error: requests.ConnectionError, lasting: bool) -> None:
    assert unreachable(error) is lasting
    with pytest.raises(Fault) as fault, _network_faults():
        raise error
    assert fault.value.lasting is lasting
    assert (UNREACHABLE in str(fault.value)) is lasting
    assert "\n" not in str(fault.value)


def test_a_name_that_nobody_knows_ends_at_once(tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(requests.ConnectionError) as error:
        requests.get("https://a.host.of.nobody.invalid/x", timeout=5)
    assert unreachable(error.value) or isinstance(error.value, requests.exceptions.ProxyError)
    assert time.process_time() - start < 5
