"""Workers speak by the interface that has their node's address."""

from __future__ import annotations

import os

import psutil
import pytest
import ray

from raymill.train import group


def test_an_address_has_its_interface() -> None:
    loopback = group.interface_of("127.0.0.1")
    assert loopback in psutil.net_if_addrs()
    assert group.interface_of("192.0.2.255") is None  # of a network for examples alone (RFC 5737)


def test_what_the_environment_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(os, "environ", {"NCCL_SOCKET_IFNAME": "=ib0"})
    group.speak_where_ray_does()
    loopback = group.interface_of("127.0.0.1")
    assert os.environ == {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": "=ib0"}


def test_without_such_an_interface_torch_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.255")
    monkeypatch.setattr(os, "environ", {})
    group.speak_where_ray_does()
    assert os.environ == {}
