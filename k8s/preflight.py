#!/usr/bin/env python3
"""Whether a node or a cluster has what EagleEye needs, in plain words: what is missing, and what mends it.

One file for Python 3.11 that needs nothing else, so that it can be copied to a node that has nothing yet:

    scp k8s/preflight.py node: && ssh node sudo python3 preflight.py node
    python3 k8s/preflight.py cluster --overlay production

It changes nothing, and asks nobody but, for a cluster, the API server by way of kubectl. It exits with 0 if nothing is
missing, with 1 if something is, and with 2 if it could not look.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

KUBERNETES: Final = "1.35"
"""The minor version that docs/nodes.md installs. Its last with containerd 1; KEDA is tested with it."""
OLDEST_KUBERNETES: Final = (1, 33)
CALICO: Final = "v3.32.1"
GPU_OPERATOR: Final = "v26.3.1"
METRICS_SERVER: Final = "v0.8.1"
KEDA: Final = "2.20.2"
OLDEST_KEDA: Final = (2, 20)
DEBIAN: Final = ("12", "13")
OLDEST_CONTAINERD: Final = (1, 7)  # the first that injects GPUs by CDI
LASTING_CONTAINERD: Final = (2, 0)  # what Kubernetes after 1.35 asks for
OLDEST_DRIVER: Final = (575,)  # release notes of Triton 25.08 and later, which have CUDA 13
OLDEST_DATA_CENTRE_DRIVER: Final = (535, 86)  # the same: such GPUs may have it, and what follows in its branch

LEAST_MEMORY_BYTES: Final = 2 * 10**9  # what kubeadm asks for
LEAST_GPU_MEMORY_BYTES: Final = 12 * 2**30  # Triton's limit of 8 GiB, and a third of it for the system and a gateway
LEAST_DISK_BYTES: Final = 20 * 10**9
LEAST_GPU_DISK_BYTES: Final = 60 * 10**9  # two of Triton's images, 10 GB packed and 20 GB unpacked, and models
LEAST_PROCESSORS: Final = 2  # what kubeadm asks for

_WORKERS_PORTS: Final = (10250, 10256)  # kubelet, kube-proxy
_CONTROL_PLANES_PORTS: Final = (2379, 2380, 6443, 10257, 10259)  # etcd, API server, controllers, scheduler
_PCI_NVIDIA: Final = "0x10de"
_PCI_DISPLAY: Final = "0x03"
_GUIDE: Final = "docs/nodes.md"
_SECONDS: Final = 60
_ENFORCING_CNIS: Final = ("calico-node", "cilium", "antrea-agent", "kube-router", "weave-net", "aws-node", "azure-npm")
_NOT_THERE: Final = ("(NotFound)", "the server doesn't have a resource type")  # kubectl's words
_STUCK: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName")


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works without, or may not for long."""
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        check: its name, which does not change.
        status: how bad it is.
        found: what there is, in plain words.
        mend: a command, or a section of docs/nodes.md; empty where nothing is to be done.
    """

    check: str
    status: Status
    found: str
    mend: str = ""


class CannotLook(Exception):
    """There is nothing to inspect; the message says why."""


def section(name: str) -> str:
    """A section of the guide."""
    return f"{_GUIDE}#{name}"


def version_of(text: str) -> tuple[int, ...]:
    """The first version number in a text: `v1.35.2` is (1, 35, 2). Empty if there is none."""
    match = re.search(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else ()


# ----------------------------------------------------------------------------------------------------------- the node


class Machine:
    """The machine that this runs on. A test has another one, made of what real ones have answered."""

    def read(self, path: str) -> str | None:
        """A file's text; None if it can't be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is something."""
        return Path(path).exists()

    def names(self, folder: str) -> list[str]:
        """What is in a folder; nothing if it is not there."""
        try:
            return sorted(entry.name for entry in Path(folder).iterdir())
        except OSError:
            return []

    def run(self, *command: str) -> str | None:
        """What a command prints; None if it is not there, fails, or takes too long."""
        try:
            done = _completed(command)
        except (OSError, subprocess.SubprocessError):
            return None
        return None if done.returncode else done.stdout

    def is_free(self, port: int) -> bool:
        """Whether nobody listens on a TCP port."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                return False
        return True

    def free_disk_bytes(self, path: str) -> int:
        """Free bytes of the file system that holds a path, or would."""
        there = Path(path)
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free

    def processors(self) -> int:
        """How many there are."""
        return os.cpu_count() or 1


@dataclass(frozen=True)
class NodeRole:
    """What a node is for. None for `has_gpu` means: if it has one, it is for that."""

    is_control_plane: bool = False
    has_gpu: bool | None = None


def inspect_node(machine: Machine, role: NodeRole) -> Iterator[Finding]:
    """Everything about one node."""
    has_gpu = has_nvidia_device(machine) if role.has_gpu is None else role.has_gpu
    yield check_system(machine)
    yield from check_kernel_modules(machine)
    yield from check_sysctls(machine)
    yield check_swap(machine)
    yield check_cgroups(machine)
    yield check_processors(machine)
    yield check_memory(machine, LEAST_GPU_MEMORY_BYTES if has_gpu else LEAST_MEMORY_BYTES)
    yield check_disk(machine, LEAST_GPU_DISK_BYTES if has_gpu else LEAST_DISK_BYTES)
    yield check_time(machine)
    yield from check_containerd(machine)
    yield from check_kubernetes_packages(machine)
    yield check_ports(machine, (*_WORKERS_PORTS, *(_CONTROL_PLANES_PORTS if role.is_control_plane else ())))
    if has_gpu:
        yield check_driver(machine)
        yield from check_container_toolkit(machine)


def has_nvidia_device(machine: Machine) -> bool:
    """Whether a display controller of NVIDIA's sits on the PCI bus, driver or not."""
    root = "/sys/bus/pci/devices"
    return any(
        (machine.read(f"{root}/{device}/vendor") or "").strip() == _PCI_NVIDIA
        and (machine.read(f"{root}/{device}/class") or "").startswith(_PCI_DISPLAY)
        for device in machine.names(root)
    )


def check_system(machine: Machine) -> Finding:
    """Debian, in a version that the guide was written for."""
    lines = (machine.read("/etc/os-release") or "").splitlines()
    release = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    name = release.get("PRETTY_NAME", "an unknown system")
    if release.get("ID") == "debian" and release.get("VERSION_ID") in DEBIAN:
        return Finding("system", Status.OK, name)
    return Finding("system", Status.WARNING, f"{name}; the guide is for Debian {' and '.join(DEBIAN)}", _GUIDE)


def check_kernel_modules(machine: Machine) -> Iterator[Finding]:
    """There now, and after the next start."""
    loaded = {line.split()[0] for line in (machine.read("/proc/modules") or "").splitlines()}
    at_start = {
        line.strip()
        for name in machine.names("/etc/modules-load.d")
        for line in (machine.read(f"/etc/modules-load.d/{name}") or "").splitlines()
    }
    works = {
        "overlay": "\toverlay\n" in (machine.read("/proc/filesystems") or ""),
        "br_netfilter": machine.exists("/proc/sys/net/bridge"),
    }
    for module, is_there in works.items():
        if module in loaded and module not in at_start:
            found = f"the module {module} is loaded, and nothing loads it at the next start"
            yield Finding("kernel-modules", Status.WARNING, found, section("kernel"))
        elif is_there:
            yield Finding("kernel-modules", Status.OK, f"{module} is there")
        else:
            found = f"the module {module} is not loaded"
            yield Finding("kernel-modules", Status.MISSING, found, section("kernel"))


def check_sysctls(machine: Machine) -> Iterator[Finding]:
    """Packets are forwarded, and bridged ones are seen by iptables."""
    for name in ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"):
        value = (machine.read(f"/proc/sys/{name.replace('.', '/')}") or "").strip()
        if value == "1":
            yield Finding("sysctl", Status.OK, f"{name} = 1")
        else:
            yield Finding("sysctl", Status.MISSING, f"{name} is {value or 'not there'}, not 1", section("kernel"))


def check_swap(machine: Machine) -> Finding:
    """None, or the kubelet does not start."""
    used = [line.split()[0] for line in (machine.read("/proc/swaps") or "").splitlines()[1:]]
    if not used:
        return Finding("swap", Status.OK, "off")
    return Finding("swap", Status.MISSING, f"on: {', '.join(used)}", f"swapoff -a, and see {section('kernel')}")


def check_cgroups(machine: Machine) -> Finding:
    """Version 2, which the guide's settings are for."""
    if machine.exists("/sys/fs/cgroup/cgroup.controllers"):
        return Finding("cgroups", Status.OK, "version 2")
    return Finding(
        "cgroups",
        Status.MISSING,
        "not version 2, or not mounted",
        "remove systemd.unified_cgroup_hierarchy=0 from the kernel's command line",
    )


def check_processors(machine: Machine) -> Finding:
    """As many as kubeadm asks for."""
    count = machine.processors()
    if count >= LEAST_PROCESSORS:
        return Finding("processors", Status.OK, str(count))
    return Finding("processors", Status.MISSING, f"{count}; kubeadm asks for {LEAST_PROCESSORS}", "a larger machine")


def check_memory(machine: Machine, least_bytes: int) -> Finding:
    """Enough for what shall run there."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", machine.read("/proc/meminfo") or "", re.MULTILINE)
    total = int(match[1]) * 1024 if match else 0
    found = f"{total / 2**30:.1f} GiB"
    if total >= least_bytes:
        return Finding("memory", Status.OK, found)
    return Finding("memory", Status.MISSING, f"{found}; {least_bytes / 2**30:.1f} GiB are needed", "a larger machine")


def check_disk(machine: Machine, least_bytes: int) -> Finding:
    """Enough for images, where containerd keeps them."""
    folder = "/var/lib/containerd"
    free = machine.free_disk_bytes(folder)
    found = f"{free / 1e9:.0f} GB free for {folder}"
    if free >= least_bytes:
        return Finding("disk", Status.OK, found)
    return Finding(
        "disk",
        Status.MISSING,
        f"{found}; images and models need {least_bytes / 1e9:.0f} GB",
        f"a larger disk, or one of its own mounted at {folder}",
    )


def check_time(machine: Machine) -> Finding:
    """Clocks agree: certificates and metrics depend on it."""
    said = (machine.run("timedatectl", "show", "--property=NTPSynchronized", "--value") or "").strip()
    if said == "yes":
        return Finding("time", Status.OK, "synchronised")
    found = "not synchronised" if said == "no" else "nobody can tell whether it is synchronised (no timedatectl)"
    return Finding("time", Status.MISSING if said == "no" else Status.WARNING, found, section("kernel"))


def check_containerd(machine: Machine) -> Iterator[Finding]:
    """Its version, that it runs, and what its configuration comes to."""
    said = machine.run("containerd", "--version")
    if said is None:
        yield Finding("containerd", Status.MISSING, "it is not installed", section("containerd"))
        return
    version = version_of(said.split()[2] if len(said.split()) > 2 else said)  # noqa: PLR2004 (after name and package)
    name = f"containerd {'.'.join(map(str, version))}"
    if version < OLDEST_CONTAINERD:
        yield Finding("containerd", Status.MISSING, f"{name}; 1.7 is the first with CDI", section("containerd"))
    elif version < LASTING_CONTAINERD:
        found = f"{name}; Kubernetes {KUBERNETES} is the last that takes it"
        yield Finding("containerd", Status.WARNING, found, section("containerd"))
    else:
        yield Finding("containerd", Status.OK, name)
    if not machine.exists("/run/containerd/containerd.sock"):
        yield Finding("containerd", Status.MISSING, "it does not run", "systemctl enable --now containerd")
    yield from check_containerd_config(machine)


def check_containerd_config(machine: Machine) -> Iterator[Finding]:
    """The interface for Kubernetes is on, cgroups are systemd's, and the pause image is the one that kubeadm wants."""
    config = containerd_config(machine)
    if config is None:
        found = "there is no configuration that can be read (this needs root)"
        yield Finding("containerd-config", Status.MISSING, found, section("containerd"))
        return
    if any("cri" in name for name in config.get("disabled_plugins", [])):
        found = "its interface for Kubernetes is off (disabled_plugins has cri), as Docker's package delivers it"
        yield Finding("containerd-config", Status.MISSING, found, section("containerd"))
    runtimes = _cri(config, "runtime").get("containerd", {}).get("runtimes", {})
    if runtimes.get("runc", {}).get("options", {}).get("SystemdCgroup") is True:
        yield Finding("containerd-config", Status.OK, "cgroups are systemd's")
    else:
        found = "SystemdCgroup is not true for runc: kubelet and containerd would manage cgroups in different ways"
        yield Finding("containerd-config", Status.MISSING, found, section("containerd"))
    yield check_pause_image(machine, config)


def containerd_config(machine: Machine) -> dict[str, Any] | None:
    """What containerd's configuration comes to with everything it includes, or else its file; None if neither is."""
    for text in (machine.run("containerd", "config", "dump"), machine.read("/etc/containerd/config.toml")):
        try:
            if text:
                return tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
    return None


def _cri(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The section for Kubernetes, of containerd 2 (in parts: `runtime`, `images`) or of containerd 1 (in one)."""
    plugins = config.get("plugins", {})
    found: dict[str, Any] = plugins.get(f"io.containerd.cri.v1.{part}", plugins.get("io.containerd.grpc.v1.cri", {}))
    return found


def check_pause_image(machine: Machine, config: Mapping[str, Any]) -> Finding:
    """The image that holds a pod's namespaces; kubeadm warns about another one."""
    images = _cri(config, "images")
    there = images.get("pinned_images", {}).get("sandbox") or images.get("sandbox_image") or ""
    listed = machine.run("kubeadm", "config", "images", "list", f"--kubernetes-version=v{KUBERNETES}.0") or ""
    wanted = next((line for line in listed.split() if "/pause:" in line), there)
    if there and there == wanted:
        return Finding("sandbox-image", Status.OK, there)
    found = f"{there or 'none is named'}; kubeadm wants {wanted}" if wanted else "none is named"
    return Finding("sandbox-image", Status.WARNING, found, section("containerd"))


def check_kubernetes_packages(machine: Machine) -> Iterator[Finding]:
    """Both kubelet and kubeadm, of one minor version that is new enough, and kept from upgrades."""
    commands = {"kubeadm": ("kubeadm", "version", "-o", "short"), "kubelet": ("kubelet", "--version")}
    versions = {name: version_of(machine.run(*command) or "")[:2] for name, command in commands.items()}
    for name, version in versions.items():
        if not version:
            yield Finding(name, Status.MISSING, "it is not installed", section("kubernetes-packages"))
        elif version < OLDEST_KUBERNETES:
            found = f"{_dotted(version)}; {_dotted(OLDEST_KUBERNETES)} is the oldest that will do"
            yield Finding(name, Status.MISSING, found, section("kubernetes-packages"))
        else:
            yield Finding(name, Status.OK, _dotted(version))
    if len(set(filter(None, versions.values()))) > 1:
        found = ", ".join(f"{name} {_dotted(version)}" for name, version in versions.items())
        yield Finding("kubernetes-packages", Status.WARNING, f"they differ: {found}", section("kubernetes-packages"))
    held = (machine.run("apt-mark", "showhold") or "").split()
    loose = [name for name, version in versions.items() if version and name not in held]
    if loose:
        found = f"an upgrade of the system would upgrade {' and '.join(loose)}"
        yield Finding("kubernetes-packages", Status.WARNING, found, f"apt-mark hold {' '.join(loose)}")


def check_ports(machine: Machine, ports: Sequence[int]) -> Finding:
    """Free, before the node joins; after that they are Kubernetes' own."""
    if machine.exists("/etc/kubernetes/kubelet.conf"):
        return Finding("ports", Status.OK, "the node has joined a cluster, which uses them")
    taken = [str(port) for port in ports if not machine.is_free(port)]
    if taken:
        found = f"somebody listens on {', '.join(taken)} already"
        return Finding("ports", Status.MISSING, found, f"ss -tlnp 'sport = :{taken[0]}' names the process")
    return Finding("ports", Status.OK, f"{', '.join(map(str, ports))} are free")


def check_driver(machine: Machine) -> Finding:
    """NVIDIA's driver is loaded, and new enough for Triton's image."""
    query = "--query-gpu=name,driver_version,memory.total"
    said = machine.run("nvidia-smi", query, "--format=csv,noheader")
    gpus = [[cell.strip() for cell in line.split(",")] for line in (said or "").splitlines() if line.count(",") == 2]  # noqa: PLR2004
    if not gpus:
        nouveau = "; the driver nouveau is loaded in its place" if machine.exists("/sys/module/nouveau") else ""
        return Finding("nvidia-driver", Status.MISSING, f"nvidia-smi finds no GPU{nouveau}", section("nvidia-driver"))
    found = f"{gpus[0][1]} for {len(gpus)} x {gpus[0][0]}, {gpus[0][2]} each"
    version = version_of(gpus[0][1])
    if version < OLDEST_DATA_CENTRE_DRIVER:
        found += f"; {_dotted(OLDEST_DATA_CENTRE_DRIVER)} is the oldest that Triton's images of today take"
        return Finding("nvidia-driver", Status.MISSING, found, section("nvidia-driver"))
    if version < OLDEST_DRIVER:
        found += f"; Triton's images of today ask for {_dotted(OLDEST_DRIVER)}, but on GPUs for data centres"
        return Finding("nvidia-driver", Status.WARNING, found, section("nvidia-driver"))
    return Finding("nvidia-driver", Status.OK, found)


def check_container_toolkit(machine: Machine) -> Iterator[Finding]:
    """It is there, containerd uses it, and it has described the GPUs."""
    said = machine.run("nvidia-ctk", "--version")
    if said is None:
        yield Finding("container-toolkit", Status.MISSING, "it is not installed", section("container-toolkit"))
        return
    yield Finding("container-toolkit", Status.OK, _dotted(version_of(said.partition("version")[2])))
    runtime = _cri(containerd_config(machine) or {}, "runtime")
    has_runtime = "nvidia" in runtime.get("containerd", {}).get("runtimes", {})
    if not has_runtime and not runtime.get("enable_cdi"):
        found = "containerd knows neither the runtime nvidia nor CDI"
        yield Finding("container-toolkit", Status.MISSING, found, section("container-toolkit"))
    devices = re.findall(r"^nvidia\.com/gpu=\S+", machine.run("nvidia-ctk", "cdi", "list") or "", re.MULTILINE)
    if devices:
        yield Finding("cdi", Status.OK, f"{len(devices)} devices")
    else:
        yield Finding("cdi", Status.MISSING, "no GPU is described for CDI", section("container-toolkit"))


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# -------------------------------------------------------------------------------------------------------- the cluster

Json = Mapping[str, Any]


def _completed(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        OSError, subprocess.SubprocessError: it is not there, or takes too long.
    """
    return subprocess.run(  # noqa: S603 (commands of this file)
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=_SECONDS,
        stdin=subprocess.DEVNULL,
    )


def ask_kubectl(*command: str) -> str | None:
    """What kubectl prints; None if the server has no such thing.

    Raises:
        CannotLook: kubectl is not there, does not end, or fails; what may not be seen may well be there.
    """
    what = " ".join(command)
    try:
        done = _completed(command)
    except subprocess.TimeoutExpired as error:
        raise CannotLook(f"`{what}` has not answered within {_SECONDS} s") from error
    except OSError as error:
        raise CannotLook(f"kubectl can't be run: {error.strerror}") from error
    if done.returncode == 0:
        return done.stdout
    if any(words in done.stderr for words in _NOT_THERE):
        return None
    said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
    raise CannotLook(f"`{what}` failed: {said}")


class Cluster:
    """A cluster, as kubectl shows it. A test has another one, made of recorded answers.

    What can't be looked at raises CannotLook: nobody knows then whether it is there.
    """

    def __init__(self, run: Callable[..., str | None] = ask_kubectl) -> None:
        self._run = run

    def get(self, *arguments: str) -> Json | None:
        """What `kubectl get` knows, as JSON; None if it is not there."""
        return self._json("get", *arguments, "--output=json")

    def raw(self, path: str) -> Json | None:
        """An answer of the API server as it is."""
        return self._json("get", "--raw", path)

    def version(self) -> str:
        """The server's version.

        Raises:
            CannotLook: no server answers.
        """
        try:
            server = (self._json("version", "--output=json") or {}).get("serverVersion")
            reason = "it names no version of one"
        except CannotLook as error:
            server, reason = None, str(error)
        version = server.get("gitVersion") if isinstance(server, dict) else None
        if not (isinstance(version, str) and version_of(version)):
            raise CannotLook(
                f"kubectl reaches no API server ({reason}): is it installed, and does `kubectl cluster-info` answer? "
                "KUBECONFIG names the file with the address"
            )
        return version

    def items(self, *arguments: str) -> list[Any]:
        """The items of a list; none if there is no such kind."""
        found = self.get(*arguments)
        items = (found.get("items") or []) if found else []
        if not (isinstance(items, list) and all(map(_is_object, items))):
            raise CannotLook(f"`kubectl get {' '.join(arguments)}` answers what no API server does")
        return [{"spec": {}, "status": {}, **each} for each in items]

    def _json(self, *arguments: str) -> Json | None:
        said = self._run("kubectl", *arguments)
        if said is None:
            return None
        try:
            found = json.loads(said)
        except json.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise CannotLook(f"`kubectl {' '.join(arguments)}` answers what no API server does: {said[:60]!r}")
        return found


def _is_object(item: Any) -> bool:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)


@dataclass(frozen=True)
class Needs:
    """What an overlay needs of its cluster.

    Attributes:
        gpu: nodes with GPUs, and what goes with them.
        monitoring: prometheus-operator.
        keda: KEDA, and what its triggers ask.
        entrance: a Gateway API implementation, and a network that enforces policies.
    """

    gpu: bool = False
    monitoring: bool = False
    keda: bool = False
    entrance: bool = False


OVERLAYS: Final[Mapping[str, Needs]] = {
    "cpu": Needs(),
    "single-gpu": Needs(gpu=True, monitoring=True),
    "gpu": Needs(gpu=True, monitoring=True, keda=True),
    "scale-to-zero": Needs(gpu=True, monitoring=True, keda=True),
    "production": Needs(gpu=True, monitoring=True, keda=True, entrance=True),
}


def inspect_cluster(cluster: Cluster, needs: Needs, namespace: str) -> Iterator[Finding]:
    """Everything about a cluster.

    Raises:
        CannotLook: no server answers, or it does not show something.
    """
    yield check_server(cluster.version())
    nodes = cluster.items("nodes")
    pods = cluster.items("pods", "--all-namespaces")
    groups = api_groups(cluster)
    yield from check_nodes(nodes)
    yield check_namespace(cluster, namespace)
    yield check_images(pods)
    yield check_network(pods, is_needed=needs.entrance)
    yield check_storage(cluster)
    if needs.gpu:
        yield check_gpus(nodes)
        yield check_device_plugin(pods)
    if needs.monitoring:
        yield from check_prometheus(cluster, groups)
    if needs.gpu and needs.monitoring:
        yield from check_dcgm(cluster, pods, groups)
    if needs.keda:
        yield from check_keda(cluster, groups)
        yield check_metrics_server(cluster)
    if needs.entrance:
        yield check_gateway_api(cluster, groups)


def api_groups(cluster: Cluster) -> dict[str, list[str]]:
    """The server's API groups, with the versions of each."""
    found = cluster.raw("/apis") or {}
    return {group["name"]: [each["version"] for each in group["versions"]] for group in found.get("groups", [])}


def check_server(version: str) -> Finding:
    """New enough."""
    if version_of(version)[:2] >= OLDEST_KUBERNETES:
        return Finding("server", Status.OK, f"Kubernetes {version}")
    found = f"Kubernetes {version}; {_dotted(OLDEST_KUBERNETES)} is the oldest that will do"
    return Finding("server", Status.MISSING, found, section("kubernetes-packages"))


def check_nodes(nodes: Sequence[Json]) -> Iterator[Finding]:
    """All are ready, and none lacks memory, disk or process ids."""
    if not nodes:
        yield Finding("nodes", Status.MISSING, "none is there", section("join"))
    for node in nodes:
        name = node["metadata"]["name"]
        conditions = {each["type"]: each for each in node["status"].get("conditions", [])}
        ready = conditions.get("Ready", {})
        if ready.get("status") != "True":
            reason = ready.get("message", "the kubelet has not reported")
            yield Finding("nodes", Status.MISSING, f"{name} is not ready: {reason}", f"kubectl describe node {name}")
            continue
        pressed = [kind for kind, each in conditions.items() if kind.endswith("Pressure") and each["status"] == "True"]
        if pressed:
            found = f"{name} reports {', '.join(pressed)}"
            yield Finding("nodes", Status.WARNING, found, f"kubectl describe node {name}")
        else:
            yield Finding("nodes", Status.OK, f"{name} is ready, {node['status']['nodeInfo']['kubeletVersion']}")


def check_namespace(cluster: Cluster, namespace: str) -> Finding:
    """Not there yet, or with the profile that our pods meet."""
    found = cluster.get("namespace", namespace)
    if found is None:
        return Finding("namespace", Status.OK, f"{namespace} is not there yet; the overlay makes it")
    label = "pod-security.kubernetes.io/enforce"
    enforced = found["metadata"].get("labels", {}).get(label)
    if enforced == "restricted":
        return Finding("namespace", Status.OK, f"{namespace} enforces the restricted profile")
    return Finding(
        "namespace",
        Status.WARNING,
        f"{namespace} enforces {enforced or 'no'} Pod Security profile",
        f"kubectl label --overwrite namespace {namespace} {label}=restricted",
    )


def check_images(pods: Sequence[Json]) -> Finding:
    """No pod waits for an image that can't be had."""
    stuck = [
        (pod["metadata"], each["image"], each["state"]["waiting"])
        for pod in pods
        for kind in ("initContainerStatuses", "containerStatuses")
        for each in pod["status"].get(kind, [])
        if each.get("state", {}).get("waiting", {}).get("reason") in _STUCK
    ]
    if not stuck:
        return Finding("images", Status.OK, "no pod waits for an image that it can't have")
    pod, image, waiting = stuck[0]
    return Finding(
        "images",
        Status.MISSING,
        f"{len(stuck)} containers can't have their image, such as {image} of {pod['namespace']}/{pod['name']}: "
        f"{waiting.get('message', waiting['reason'])}",
        f"kubectl -n {pod['namespace']} describe pod {pod['name']}; by hand, on the node: crictl pull {image}",
    )


def check_network(pods: Sequence[Json], *, is_needed: bool) -> Finding:
    """A network that enforces NetworkPolicies: others take them, and do nothing."""
    found = {cni for cni in _ENFORCING_CNIS for pod in pods if pod["metadata"]["name"].startswith(f"{cni}-")}
    if found:
        return Finding("network", Status.OK, f"{', '.join(sorted(found))} enforces NetworkPolicies")
    status = Status.MISSING if is_needed else Status.WARNING
    return Finding("network", status, "no network that is known to enforce NetworkPolicies", section("calico"))


def check_storage(cluster: Cluster) -> Finding:
    """A default StorageClass, for volumes that name none."""
    key = "storageclass.kubernetes.io/is-default-class"
    classes = cluster.items("storageclasses")
    default = [
        each["metadata"]["name"] for each in classes if each["metadata"].get("annotations", {}).get(key) == "true"
    ]
    if default:
        return Finding("storage", Status.OK, f"{default[0]} is the default")
    found = (
        "no StorageClass is the default; only Prometheus' storage and the components model-volume and engine-build ask"
    )
    return Finding("storage", Status.WARNING, found, section("storage"))


def check_gpus(nodes: Sequence[Json]) -> Finding:
    """Nodes have GPUs to give, and the label that Triton's pods look for."""
    label, resource = "nvidia.com/gpu.present", "nvidia.com/gpu"
    counts = {node["metadata"]["name"]: int(node["status"].get("allocatable", {}).get(resource, 0)) for node in nodes}
    labelled = {node["metadata"]["name"] for node in nodes if node["metadata"].get("labels", {}).get(label) == "true"}
    usable = sum(count for name, count in counts.items() if name in labelled)
    if usable:
        return Finding("gpus", Status.OK, f"{usable} on {sum(counts[name] > 0 for name in labelled)} nodes")
    if any(counts.values()):
        found = f"{sum(counts.values())}, on nodes without the label {label}=true that Triton's pods look for"
        return Finding("gpus", Status.MISSING, found, section("gpu-operator"))
    return Finding("gpus", Status.MISSING, f"no node has {resource} to give", section("gpu-operator"))


def check_device_plugin(pods: Sequence[Json]) -> Finding:
    """It tells the kubelets of their GPUs."""
    return _all_ready(pods, "nvidia-device-plugin", "device-plugin", "gpu-operator")


def _all_ready(pods: Sequence[Json], part: str, check: str, guide: str) -> Finding:
    """All pods with a part of a name are there, and ready."""
    found = [pod for pod in pods if part in pod["metadata"]["name"] and pod["status"].get("phase") != "Succeeded"]
    waiting = [pod["metadata"] for pod in found if not _is_ready(pod)]
    if not found:
        return Finding(check, Status.MISSING, f"there is no pod called {part}", section(guide))
    if waiting:
        where = f"-n {waiting[0]['namespace']} describe pod {waiting[0]['name']}"
        found_words = f"{len(waiting)} of {len(found)} pods are not ready"
        return Finding(check, Status.MISSING, found_words, f"kubectl {where}")
    return Finding(check, Status.OK, f"{len(found)} pods, all ready")


def _is_ready(pod: Json) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def check_prometheus(cluster: Cluster, groups: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """The operator's kinds, a Prometheus where KEDA looks for one, and kube-state-metrics, which alerts ask."""
    if "v1" not in groups.get("monitoring.coreos.com", ()):
        found = "the kinds of prometheus-operator (monitoring.coreos.com/v1) are not there"
        yield Finding("prometheus-operator", Status.MISSING, found, section("add-ons"))
        return
    yield Finding("prometheus-operator", Status.OK, "monitoring.coreos.com/v1")
    services = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in cluster.items("services", "-A")}
    if ("monitoring", "prometheus-operated") in services:
        yield Finding("prometheus", Status.OK, "prometheus-operated.monitoring.svc, where KEDA asks")
    else:
        found = "there is no Service prometheus-operated in the namespace monitoring, where KEDA asks"
        mend = "install it there, or change serverAddress in k8s/components/keda"
        yield Finding("prometheus", Status.MISSING, found, mend)
    if any("kube-state-metrics" in name for _, name in services):
        yield Finding("kube-state-metrics", Status.OK, "there")
    else:
        yield Finding(
            "kube-state-metrics", Status.WARNING, "not there: alerts about replicas are silent", section("add-ons")
        )


def check_dcgm(cluster: Cluster, pods: Sequence[Json], groups: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """The exporter runs, and is scraped in a way that leaves each GPU the name of the pod that uses it."""
    yield _all_ready(pods, "dcgm-exporter", "dcgm-exporter", "gpu-operator")
    if "monitoring.coreos.com" not in groups:
        return
    monitors = cluster.items("servicemonitors.monitoring.coreos.com,podmonitors.monitoring.coreos.com", "-A")
    endpoints = [
        endpoint
        for each in monitors
        if "dcgm-exporter" in json.dumps([each["metadata"]["name"], each["spec"].get("selector", {})])
        for endpoint in each["spec"].get("endpoints", each["spec"].get("podMetricsEndpoints", []))
    ]
    if not endpoints:
        yield Finding("dcgm-scraped", Status.MISSING, "no ServiceMonitor selects the exporter", section("gpu-operator"))
    elif not all(endpoint.get("honorLabels") for endpoint in endpoints):
        found = "honorLabels is off: pods are called exported_pod, which our rules know, and other dashboards do not"
        yield Finding("dcgm-scraped", Status.WARNING, found, section("gpu-operator"))
    else:
        yield Finding("dcgm-scraped", Status.OK, f"every {endpoints[0].get('interval', '30s, the default')}")


def check_keda(cluster: Cluster, groups: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Its kinds, a version whose fallback is whole, and that it is the one who serves external metrics."""
    if "v1alpha1" not in groups.get("keda.sh", ()):
        yield Finding("keda", Status.MISSING, "its kinds (keda.sh/v1alpha1) are not there", section("add-ons"))
        return
    images = [
        container["image"]
        for each in cluster.items("deployments", "-A")
        if each["metadata"]["name"] == "keda-operator"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    version = version_of(images[0].partition("@")[0].rpartition(":")[2]) if images else ()
    if not images:
        yield Finding("keda", Status.MISSING, "there is no Deployment keda-operator", section("add-ons"))
    elif version[:2] < OLDEST_KEDA:
        found = f"{_dotted(version) or images[0]}; {_dotted(OLDEST_KEDA)} mended fallbacks that we rely on"
        yield Finding("keda", Status.MISSING, found, section("add-ons"))
    else:
        yield Finding("keda", Status.OK, _dotted(version))
    yield check_external_metrics(cluster)


def check_external_metrics(cluster: Cluster) -> Finding:
    """HPAs ask KEDA; a cluster has one such server only."""
    service = cluster.get("apiservice", "v1beta1.external.metrics.k8s.io")
    if service is None:
        return Finding("external-metrics", Status.MISSING, "nobody serves external metrics", section("add-ons"))
    owner = service["spec"].get("service", {}).get("name", "")
    if "keda" not in owner:
        found = f"{owner or 'another server'} serves external metrics, and KEDA can't as well"
        mend = "use the component prometheus-adapter in place of keda, or remove that server"
        return Finding("external-metrics", Status.MISSING, found, mend)
    return _available(service, "external-metrics", "add-ons")


def check_metrics_server(cluster: Cluster) -> Finding:
    """The gateway's autoscaler asks it for processor use."""
    service = cluster.get("apiservice", "v1beta1.metrics.k8s.io")
    if service is None:
        return Finding("metrics-server", Status.MISSING, "it is not there", section("metrics-server"))
    return _available(service, "metrics-server", "metrics-server")


def _available(service: Json, check: str, guide: str) -> Finding:
    for each in service.get("status", {}).get("conditions", []):
        if each["type"] == "Available" and each["status"] == "True":
            return Finding(check, Status.OK, "answers")
        if each["type"] == "Available":
            return Finding(check, Status.MISSING, f"does not answer: {each.get('message', '')}", section(guide))
    return Finding(check, Status.MISSING, "has not reported", section(guide))


def check_gateway_api(cluster: Cluster, groups: Mapping[str, Sequence[str]]) -> Finding:
    """Its kinds, and somebody who implements them."""
    if "v1" not in groups.get("gateway.networking.k8s.io", ()):
        found = "the kinds of the Gateway API (gateway.networking.k8s.io/v1) are not there"
        return Finding("gateway-api", Status.MISSING, found, section("add-ons"))
    accepted = [
        each["metadata"]["name"]
        for each in cluster.items("gatewayclasses.gateway.networking.k8s.io")
        for condition in each.get("status", {}).get("conditions", [])
        if condition["type"] == "Accepted" and condition["status"] == "True"
    ]
    if accepted:
        return Finding("gateway-api", Status.OK, f"GatewayClass {accepted[0]}")
    return Finding("gateway-api", Status.MISSING, "no GatewayClass has an implementation", section("add-ons"))


# -------------------------------------------------------------------------------------------------------- the command


def show(findings: Sequence[Finding]) -> None:
    """Print for people: what is wrong comes with what mends it."""
    width = max(len(each.check) for each in findings)
    for each in findings:
        print(f"{each.status:<8} {each.check:<{width}}  {each.found}")  # noqa: T201 (what it is for)
        if each.mend:
            print(f"{'':<8} {'':<{width}}    -> {each.mend}")  # noqa: T201
    counts = [f"{sum(each.status is status for each in findings)} {status}" for status in Status]
    print(", ".join(counts))  # noqa: T201


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Tell what a node or a cluster lacks for EagleEye, and what mends it. Changes nothing.",
        epilog="Exits with 0 if nothing is missing, 1 if something is, 2 if it could not look.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    node = commands.add_parser("node", help="this machine; as root, or containerd's configuration can't be read")
    node.add_argument("--control-plane", action="store_true", help="it is, or becomes, one: more ports must be free")
    node.add_argument(
        "--gpu", action=argparse.BooleanOptionalAction, help="whether Triton runs here; by default, if there is a GPU"
    )
    cluster = commands.add_parser("cluster", help="the cluster that kubectl speaks to")
    cluster.add_argument("--overlay", choices=OVERLAYS, default="gpu", help="what shall be installed (%(default)s)")
    cluster.add_argument("--namespace", default="eagleeye", help="where to (%(default)s)")
    for command in (node, cluster):
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, machine: Machine | None = None, cluster: Cluster | None = None) -> int:
    """Inspect, print, and return the exit status."""
    options = _arguments(arguments)
    try:
        if options.command == "node":
            role = NodeRole(is_control_plane=options.control_plane, has_gpu=options.gpu)
            findings = list(inspect_node(machine or Machine(), role))
        else:
            findings = list(inspect_cluster(cluster or Cluster(), OVERLAYS[options.overlay], options.namespace))
    except CannotLook as error:
        print(f"preflight: {error}", file=sys.stderr)  # noqa: T201
        return 2
    is_ready = not any(each.status is Status.MISSING for each in findings)
    if options.json:
        print(json.dumps({"ready": is_ready, "findings": [asdict(each) for each in findings]}, indent=2))  # noqa: T201
    else:
        show(findings)
    return 0 if is_ready else 1


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `preflight.py node | head` ends without a word
    sys.exit(main())
