"""A Slurm of one node on loopback, with its own ports and folders; needs root.

Its binaries are those of Debian's packages slurm-wlm and munge; no service of theirs is used.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/ended.txt
MinJobAge=3600
KillWait=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cores} Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Environment for commands of a Slurm that runs until the block ends.

    Args:
        folder: for all of its files; exists, root's own, with a short name.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    cores = len(os.sched_getaffinity(0))
    controller_port, node_port = _free_ports(2)
    conf.write_text(
        _CONF.format(
            folder=folder,
            host=host,
            cores=cores,
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    with ExitStack() as daemons:
        daemons.enter_context(_munge(folder))
        daemons.enter_context(_daemon("slurmctld", "-D", "-c", "-f", conf))
        daemons.enter_context(_daemon("slurmd", "-D", "-c", "-N", "localhost", "-f", conf))
        _wait_until_idle(environment)
        try:
            yield environment
        finally:
            subprocess.run(["scancel", "--signal=KILL", "--full", "--me"], env=environment)
            subprocess.run(["scancel", "--me"], env=environment)
            _wait_until_idle(environment)


def task_states(environment: dict[str, str], job: str) -> dict[int, dict[str, str]]:
    """What Slurm says of each element of an array, by its index."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "-o", job],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    tasks = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.stdout.splitlines()]
    return {int(task["ArrayTaskId"]): task for task in tasks if task["ArrayTaskId"].isdecimal()}


@contextmanager
def _munge(folder: Path) -> Iterator[None]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    options = {"socket": folder / "munge.socket", "key-file": key}
    options |= {f"{name}-file": folder / f"munge.{name}" for name in ("pid", "seed", "log")}
    words = [f"--{name}={path}" for name, path in options.items()]
    with _daemon("munged", "--foreground", "--force", *words):
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        yield


@contextmanager
def _daemon(*command: object) -> Iterator[None]:
    """Run a daemon in the foreground until the block ends."""
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_idle(environment: dict[str, str]) -> None:
    def is_idle() -> bool:
        said = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True
        )
        return said.stdout.strip() == "idle"

    _wait_for(is_idle, "an idle node")


def _wait_for(is_so: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"no {what} after a minute")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = []
    for server in sockets:
        with closing(server):
            ports.append(server.getsockname()[1])
    return ports
