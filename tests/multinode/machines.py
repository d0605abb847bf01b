"""Machines of one test on this one, each with network, processes and scratch of its own, by Linux namespaces.

What a machine listens at on its loopback no other reaches, `hostname -I` tells its one address, its cable can be pulled and
its power cut. All have the same file system, a shared folder at `SHARED`, and memory of their own for `/dev/shm`. They end
with the process that made them, also by kill -9. It takes root; `why_not` says why they cannot be had.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

NETWORK = "198.18.77"
"""Set aside for measuring networks (RFC 2544): nobody's."""

OUTSIDE = f"{NETWORK}.1"
"""The address at which the machines reach what runs here, beside them."""

SHARED = "/mnt/raymill"
SCRATCH = "/mnt/tmp"
CABLE = "raymill0"

# The first process of a machine: all others of it die with it, and it reaps those whose parent died.
BOOT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -m 777 {shared} {scratch}
mount --bind {folder} {shared}
mount -t tmpfs -o size=8g tmpfs /dev/shm
hostname {name}
ip link set lo up
touch {folder}/.{name}
while :; do sleep 600 & wait -n || true; done
"""

UNSHARE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--fork", "--net")


def why_not() -> str | None:
    """What keeps this user or this system from having machines; None where nothing does."""
    try:
        done = subprocess.run(
            [*UNSHARE, "--mount", "--pid", "--uts", "ip", "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        return f"network namespaces need {error.filename}"
    return None if done.returncode == 0 else f"network namespaces cannot be made: {done.stderr.strip()}"


class Machine:
    def __init__(self, number: int, site: Site) -> None:
        self.number, self._site = number, site
        self.name = f"machine-{number}"
        self.address = f"{NETWORK}.{10 + number}"
        boot = BOOT.format(
            shared=SHARED, scratch=SCRATCH, folder=shlex.quote(str(site.shared)), name=self.name
        )
        booted = site.shared / f".{self.name}"
        booted.unlink(missing_ok=True)
        command = [*UNSHARE, "--mount", "--pid", "--mount-proc", "--uts", "--ipc", "bash", "-c", boot]
        self._power = subprocess.Popen(command)
        _wait_for(booted, self._power)
        (init,) = psutil.Process(self._power.pid).children()
        self._init = init.pid
        site.plug(self.port, self._init, self.address)

    @property
    def port(self) -> str:
        return f"to-{self.number}"

    def run(self, command: str, environment: Mapping[str, str], log: Path) -> int:
        """Run a shell's command to its end; what it starts in the background lives on.

        Returns:
            Its exit status.
        """
        with log.open("ab") as output:
            return subprocess.run(
                [*self._enter, "bash", "-c", command],
                env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
            ).returncode  # fmt: skip

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._init}", "--net", "--mount", "--pid", "--uts", "--ipc"]

    def pull_cable(self) -> None:
        """All goes on at both ends, and nothing comes through."""
        self._site.switch("ip", "link", "set", self.port, "down")

    def plug_cable(self) -> None:
        self._site.switch("ip", "link", "set", self.port, "up")

    def cut_power(self) -> None:
        """All processes die at once, and no connection is closed: the cable goes first."""
        if self._power.poll() is None:
            self.pull_cable()
            self._power.kill()
            self._power.wait()


class Site:
    """A switch and the machines at it; this process has a cable to it as well."""

    def __init__(self, shared: Path) -> None:
        """`shared` is the folder that all machines see at `SHARED`."""
        self.shared = shared
        self.machines: list[Machine] = []
        plugged = shared / ".switch"
        self._switch = subprocess.Popen(
            [*UNSHARE, "bash", "-c", f"touch {shlex.quote(str(plugged))}; sleep infinity"]
        )
        _wait_for(plugged, self._switch)
        (inside,) = psutil.Process(self._switch.pid).children()
        self._inside = inside.pid
        self.switch("ip", "link", "add", "bridge", "type", "bridge")
        self.switch("ip", "link", "set", "bridge", "up")
        self.plug("outside", os.getpid(), OUTSIDE, CABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.cut_power()
        _check("ip", "link", "delete", CABLE)
        self._switch.kill()
        self._switch.wait()

    def add(self) -> Machine:
        """A machine that is on, and has a cable."""
        self.machines.append(Machine(len(self.machines) + 1, self))
        return self.machines[-1]

    def replace(self, gone: Machine) -> Machine:
        """Another machine at the address of one whose power is cut."""
        self.switch("ip", "link", "delete", gone.port)
        machine = Machine(gone.number, self)
        self.machines[self.machines.index(gone)] = machine
        return machine

    def switch(self, *command: str) -> None:
        _check("nsenter", f"--target={self._inside}", "--net", *command)

    def plug(self, port: str, pid: int, address: str, name: str = "eth0") -> None:
        """A cable from a port of the switch to the network of a process."""
        self.switch("ip", "link", "add", port, "type", "veth", "peer", "name", name, "netns", str(pid))
        self.switch("ip", "link", "set", port, "master", "bridge", "up")
        there = ("nsenter", f"--target={pid}", "--net", "ip")
        _check(*there, "address", "add", f"{address}/24", "dev", name)
        _check(*there, "link", "set", name, "up")


def _check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _wait_for(path: Path, process: subprocess.Popen[bytes], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not path.exists():
        assert process.poll() is None, f"{path.name} ended"
        assert time.monotonic() < deadline, f"{path.name} did not start"
        time.sleep(0.02)
