"""Send requests to this machine without a proxy: their content, such as scans, must not leave the machine."""

import ipaddress
import urllib.request
from urllib.parse import urlsplit

NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")
"""Names of this machine in NO_PROXY: requests reads ::1, urllib and botocore read [::1]."""


def is_here(url: str) -> bool:
    """Return whether the URL names this machine."""
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def around_proxy(*urls: str) -> dict[str, str]:
    """Return NO_PROXY with the names of this machine, also those in `urls`; {} without a proxy or anything to add."""
    proxies = urllib.request.getproxies_environment()
    bypass = proxies.pop("no", "")
    listed = [name.strip() for name in bypass.split(",")]
    missing = {*NAMES, *(_host(url) for url in urls if is_here(url))} - {*listed}
    if not proxies or "*" in listed or not missing:
        return {}
    bypass = ",".join([*filter(None, listed), *sorted(missing)])
    return {"NO_PROXY": bypass, "no_proxy": bypass}


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
