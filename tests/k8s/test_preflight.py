"""`k8s/preflight.py`: what it says of nodes and clusters that are well, and of each way in which they are not.

What machines and clusters answer stands here in the formats that their makers document; `recorded/` has what is long.
"""

import copy
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.k8s.conftest import K8S, PLATFORMS, objects, of_kind
from tests.k8s.test_rules import module_at

RECORDED = REPOSITORY / "tests" / "k8s" / "recorded"
GUIDE = REPOSITORY / "docs" / "nodes.md"
SCRIPT = K8S / "preflight.py"
PAUSE = "kubeadm config images list --kubernetes-version=v1.35.0"
SMI = "nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader"
GPU = "/sys/bus/pci/devices/0000:00:1e.0"

preflight = module_at(SCRIPT)


# ----------------------------------------------------------------------------------------------------------- the node


class RecordedMachine(preflight.Machine):
    """A machine made of files and of what commands have printed; `None` takes one away."""

    def __init__(self, files, commands, *, taken=(), free_bytes=200 * 10**9, processors=16):
        self.files = {path: text for path, text in files.items() if text is not None}
        self.commands = commands
        self.taken = taken
        self.free_bytes = free_bytes
        self.cores = processors

    def read(self, path):
        return self.files.get(path)

    def exists(self, path):
        return any(each == path or each.startswith(f"{path}/") for each in self.files)

    def names(self, folder):
        return sorted({path[len(folder) + 1 :].split("/")[0] for path in self.files if path.startswith(f"{folder}/")})

    def run(self, *command):
        return self.commands.get(shlex.join(command))

    def is_free(self, port):
        return port not in self.taken

    def free_disk_bytes(self, path):
        return self.free_bytes

    def processors(self):
        return self.cores


FILES = {
    "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n',
    "/etc/modules-load.d/kubernetes.conf": "overlay\nbr_netfilter\n",
    "/proc/modules": "br_netfilter 36864 0 - Live 0x0\noverlay 212992 9 - Live 0x0\n",
    "/proc/filesystems": "nodev\tsysfs\nnodev\toverlay\n\text4\n",
    "/proc/sys/net/ipv4/ip_forward": "1\n",
    "/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables": "1\n",
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "/proc/meminfo": "MemTotal:       65842304 kB\nMemFree:        50000000 kB\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "/run/containerd/containerd.sock": "",
    "/etc/containerd/config.toml": (RECORDED / "containerd-2.toml").read_text(),
    f"{GPU}/vendor": "0x10de\n",
    f"{GPU}/class": "0x030200\n",
}
COMMANDS = {
    "timedatectl show --property=NTPSynchronized --value": "yes\n",
    "containerd --version": "containerd containerd.io v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376\n",
    "containerd config dump": (RECORDED / "containerd-2.toml").read_text(),
    "kubeadm version -o short": "v1.35.2\n",
    "kubelet --version": "Kubernetes v1.35.2\n",
    "apt-mark showhold": "kubeadm\nkubectl\nkubelet\n",
    PAUSE: (RECORDED / "images.txt").read_text(),
    SMI: "NVIDIA L4, 580.95.05, 23034 MiB\nNVIDIA L4, 580.95.05, 23034 MiB\n",
    "nvidia-ctk --version": "NVIDIA Container Toolkit CLI version 1.18.0\ncommit: f8daa5e2\n",
    "nvidia-ctk cdi list": "nvidia.com/gpu=0\nnvidia.com/gpu=1\nnvidia.com/gpu=all\n",
}


def machine(files=(), commands=(), **facts):
    """The healthy node, with some answers changed."""
    return RecordedMachine({**FILES, **dict(files)}, {**COMMANDS, **dict(commands)}, **facts)


def wrong(findings):
    """(check, status) of all that is not well."""
    return [(each.check, str(each.status)) for each in findings if each.status is not preflight.Status.OK]


def inspect(there, **role):
    return list(preflight.inspect_node(there, preflight.NodeRole(**role)))


@pytest.mark.parametrize("role", [{}, {"is_control_plane": True}, {"has_gpu": True}])
def test_a_healthy_node_lacks_nothing(role):
    """And every check has something to say of it."""
    findings = inspect(machine(), **role)
    assert wrong(findings) == []
    assert {"containerd", "cdi", "nvidia-driver", "ports", "time"} <= {each.check for each in findings}


def test_a_node_without_a_gpu_is_not_asked_for_one():
    """Nobody's display controller but NVIDIA's counts, and an option has the last word."""
    bare = {SMI: None, "nvidia-ctk --version": None, "nvidia-ctk cdi list": None}
    other = {f"{GPU}/vendor": "0x1a03\n"}
    assert wrong(inspect(machine(other, bare))) == []
    assert wrong(inspect(machine((), bare), has_gpu=False)) == []
    assert wrong(inspect(machine(other, bare), has_gpu=True)) == [
        ("nvidia-driver", "missing"),
        ("container-toolkit", "missing"),
    ]


OLD_CONFIG = {"containerd config dump": (RECORDED / "containerd-1.toml").read_text()}
BROKEN = {  # what is changed; what is said; a part of the words
    "another system": (
        {"files": {"/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n'}},
        [("system", "warning")],
        "Ubuntu 24.04 LTS; the guide is for Debian 12 and 13",
    ),
    "a module that is not loaded": (
        {"files": {key: None for key in FILES if "br" in key.split("/")[-1] or "net/bridge" in key}},
        [("kernel-modules", "missing"), ("sysctl", "missing"), ("sysctl", "missing")],
        "br_netfilter is not loaded",
    ),
    "modules that the next start forgets": (
        {"files": {"/etc/modules-load.d/kubernetes.conf": None}},
        [("kernel-modules", "warning")] * 2,
        "nothing loads it at the next start",
    ),
    "no forwarding": (
        {"files": {"/proc/sys/net/ipv4/ip_forward": "0\n"}},
        [("sysctl", "missing")],
        "net.ipv4.ip_forward is 0, not 1",
    ),
    "swap": (
        {"files": {"/proc/swaps": FILES["/proc/swaps"] + "/dev/sda2   partition\t1000444\t\t0\t\t-2\n"}},
        [("swap", "missing")],
        "on: /dev/sda2",
    ),
    "old cgroups": ({"files": {"/sys/fs/cgroup/cgroup.controllers": None}}, [("cgroups", "missing")], "not version 2"),
    "a small machine": (
        {"files": {"/proc/meminfo": "MemTotal:  8000000 kB\n"}, "free_bytes": 9 * 10**9, "processors": 1},
        [("processors", "missing"), ("memory", "missing"), ("disk", "missing")],
        "7.6 GiB; 12.0 GiB are needed",
    ),
    "a clock of its own": (
        {"commands": {"timedatectl show --property=NTPSynchronized --value": "no\n"}},
        [("time", "missing")],
        "not synchronised",
    ),
    "no timedatectl": (
        {"commands": {"timedatectl show --property=NTPSynchronized --value": None}},
        [("time", "warning")],
        "nobody can tell",
    ),
    "no containerd": (
        {"commands": {"containerd --version": None}},
        [("containerd", "missing")],
        "it is not installed",
    ),
    "Debian 12's containerd": (
        {"commands": {"containerd --version": "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1\n"}},
        [("containerd", "missing")],
        "1.6.20; 1.7 is the first with CDI",
    ),
    "Debian 13's containerd, as its package leaves it": (
        {
            "commands": {
                "containerd --version": "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24\n",
                **OLD_CONFIG,
            }
        },
        [
            ("containerd", "warning"),
            ("containerd-config", "missing"),
            ("sandbox-image", "warning"),
            ("container-toolkit", "missing"),
        ],
        "SystemdCgroup is not true",
    ),
    "containerd that does not run": (
        {"files": {"/run/containerd/containerd.sock": None}},
        [("containerd", "missing")],
        "it does not run",
    ),
    "Docker's package as it is delivered": (
        {"commands": {"containerd config dump": (RECORDED / "containerd-of-docker.toml").read_text()}},
        [
            ("containerd-config", "missing"),
            ("containerd-config", "missing"),
            ("sandbox-image", "warning"),
            ("container-toolkit", "missing"),
        ],
        "as Docker's package delivers it",
    ),
    "a configuration that only root may read": (
        {"files": {"/etc/containerd/config.toml": None}, "commands": {"containerd config dump": None}},
        [("containerd-config", "missing"), ("container-toolkit", "missing")],
        "(this needs root)",
    ),
    "a configuration that is no TOML": (
        {"files": {"/etc/containerd/config.toml": "version = ["}, "commands": {"containerd config dump": None}},
        [("containerd-config", "missing"), ("container-toolkit", "missing")],
        "no configuration that can be read",
    ),
    "another pause image": (
        {"commands": {PAUSE: "registry.k8s.io/pause:3.11\n"}},
        [("sandbox-image", "warning")],
        "pause:3.10.1; kubeadm wants registry.k8s.io/pause:3.11",
    ),
    "no packages": (
        {"commands": {"kubeadm version -o short": None, "kubelet --version": None, PAUSE: None}},
        [("kubeadm", "missing"), ("kubelet", "missing")],
        "it is not installed",
    ),
    "an old and loose kubelet": (
        {"commands": {"kubelet --version": "Kubernetes v1.30.4\n", "apt-mark showhold": "kubeadm\n"}},
        [("kubelet", "missing"), ("kubernetes-packages", "warning"), ("kubernetes-packages", "warning")],
        "1.30; 1.33 is the oldest that will do",
    ),
    "a port that is taken": ({"taken": (10250,)}, [("ports", "missing")], "somebody listens on 10250 already"),
    "no driver": (
        {"files": {"/sys/module/nouveau/refcnt": "0"}, "commands": {SMI: None}},
        [("nvidia-driver", "missing")],
        "nvidia-smi finds no GPU; the driver nouveau is loaded in its place",
    ),
    "a driver that has lost its GPU": (
        {"commands": {SMI: "No devices were found\n"}},
        [("nvidia-driver", "missing")],
        "nvidia-smi finds no GPU",
    ),
    "a driver for data centres only": (
        {"commands": {SMI: "Tesla T4, 550.163.01, 15360 MiB\n"}},
        [("nvidia-driver", "warning")],
        "550.163.01 for 1 x Tesla T4, 15360 MiB each; Triton's images of today ask for 575",
    ),
    "an old driver": (
        {"commands": {SMI: "Tesla T4, 525.147.05, 15360 MiB\n"}},
        [("nvidia-driver", "missing")],
        "535.86 is the oldest",
    ),
    "no toolkit": (
        {"commands": {"nvidia-ctk --version": None}},
        [("container-toolkit", "missing")],
        "it is not installed",
    ),
    "no description of the GPUs": (
        {"commands": {"nvidia-ctk cdi list": ""}},
        [("cdi", "missing")],
        "no GPU is described",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_node_lacks_is_told(name):
    """That and nothing else, with words for people and something that mends it."""
    changes, expected, words = BROKEN[name]
    findings = inspect(machine(**changes))
    assert wrong(findings) == expected
    assert any(words in each.found for each in findings), [each.found for each in findings]
    assert all(each.mend for each in findings if each.status is not preflight.Status.OK)


def test_a_node_that_has_joined_may_use_its_ports():
    """They are the kubelet's own."""
    joined = machine({"/etc/kubernetes/kubelet.conf": "kind: Config\n"}, taken=(10250,))
    assert wrong(inspect(joined)) == []


def test_a_control_plane_needs_more_ports():
    """Those of etcd and the API server."""
    busy = machine(taken=(6443,))
    assert wrong(inspect(busy)) == []
    assert wrong(inspect(busy, is_control_plane=True)) == [("ports", "missing")]


def test_this_very_machine_is_inspected(tmp_path):
    """One file, copied anywhere, and run by a Python without packages: whatever it finds, it says so."""
    copied = tmp_path / "preflight.py"
    copied.write_text(SCRIPT.read_text())
    command = [sys.executable, "-I", "-S", copied, "node", "--control-plane", "--gpu"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["ready"] else 1)
    plain = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert (plain.returncode, plain.stderr) == (done.returncode, "")
    assert [line.split()[:2] for line in plain.stdout.splitlines() if "->" not in line][:-1] == [
        [each["status"], each["check"]] for each in said["findings"]
    ]


# -------------------------------------------------------------------------------------------------------- the cluster


def pod(namespace, name, *, is_ready=True, **status):
    conditions = [{"type": "Ready", "status": str(is_ready)}]
    return {
        "metadata": {"namespace": namespace, "name": name},
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


def node(name, gpus=0, *, ready="True", **conditions):
    found = [
        {"type": "Ready", "status": ready, "message": "container runtime network not ready: cni plugin not initialized"}
    ]
    found += [{"type": kind, "status": status} for kind, status in conditions.items()]
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.present": "true"} if gpus else {}},
        "status": {
            "allocatable": {"cpu": "16", **({"nvidia.com/gpu": str(gpus)} if gpus else {})},
            "conditions": found,
            "nodeInfo": {"kubeletVersion": "v1.35.2"},
        },
    }


def service(namespace, name):
    return {"metadata": {"namespace": namespace, "name": name}}


def api_service(owner, status="True"):
    conditions = [{"type": "Available", "status": status, "message": "endpoints for service/x have no addresses"}]
    return {"spec": {"service": {"name": owner, "namespace": "x"}}, "status": {"conditions": conditions}}


def group(name, *versions):
    return {"name": name, "versions": [{"groupVersion": f"{name}/{each}", "version": each} for each in versions]}


MONITORS = "servicemonitors.monitoring.coreos.com,podmonitors.monitoring.coreos.com -A"
HEALTHY = {  # what follows `kubectl get`
    "nodes": [node("cp-1", MemoryPressure="False"), node("gpu-1", 2), node("gpu-2", 1)],
    "pods --all-namespaces": [
        pod("calico-system", "calico-node-x2zlk"),
        pod("gpu-operator", "nvidia-device-plugin-daemonset-7k9vv"),
        pod("gpu-operator", "nvidia-dcgm-exporter-8xqzp"),
        pod("gpu-operator", "nvidia-cuda-validator-ph5tn", is_ready=False, phase="Succeeded"),
    ],
    "--raw /apis": {
        "kind": "APIGroupList",
        "groups": [
            group("apps", "v1"),
            group("keda.sh", "v1alpha1"),
            group("monitoring.coreos.com", "v1", "v1alpha1"),
            group("gateway.networking.k8s.io", "v1", "v1beta1"),
        ],
    },
    "namespace eagleeye": None,
    "storageclasses": [
        {"metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
    ],
    "services -A": [
        service("monitoring", "prometheus-operated"),
        service("monitoring", "monitoring-kube-state-metrics"),
    ],
    MONITORS: [
        {
            "metadata": {"name": "nvidia-dcgm-exporter"},
            "spec": {
                "selector": {"matchLabels": {"app": "nvidia-dcgm-exporter"}},
                "endpoints": [{"port": "gpu-metrics", "interval": "5s", "honorLabels": True}],
            },
        }
    ],
    "deployments -A": [
        {
            "metadata": {"namespace": "keda", "name": "keda-operator"},
            "spec": {"template": {"spec": {"containers": [{"image": "ghcr.io/kedacore/keda:2.20.2"}]}}},
        }
    ],
    "apiservice v1beta1.external.metrics.k8s.io": api_service("keda-operator-metrics-apiserver"),
    "apiservice v1beta1.metrics.k8s.io": api_service("metrics-server"),
    "gatewayclasses.gateway.networking.k8s.io": [
        {"metadata": {"name": "eg"}, "status": {"conditions": [{"type": "Accepted", "status": "True"}]}}
    ],
}


def cluster(version="v1.35.2", **changes):
    """The healthy cluster, with some answers changed; a list stands for the items of one."""
    answers = copy.deepcopy(HEALTHY)
    answers.update(changes)

    def run(*command):
        asked = shlex.join(command).removeprefix("kubectl ")
        if asked == "version --output=json":
            return json.dumps({"clientVersion": {}, **({"serverVersion": {"gitVersion": version}} if version else {})})
        found = answers[asked.removeprefix("get ").removesuffix(" --output=json")]
        return (
            None
            if found is None
            else json.dumps({"kind": "List", "items": found} if isinstance(found, list) else found)
        )

    return preflight.Cluster(run)


def inspect_cluster(there, overlay="production"):
    return list(preflight.inspect_cluster(there, preflight.OVERLAYS[overlay], "eagleeye"))


@pytest.mark.parametrize("overlay", preflight.OVERLAYS)
def test_a_healthy_cluster_lacks_nothing(overlay):
    """Whatever shall be installed."""
    assert wrong(inspect_cluster(cluster(), overlay)) == []


def test_a_laptops_cluster_does_for_the_overlay_cpu():
    """Nothing is asked for that it does not use."""
    bare = cluster(
        nodes=[node("kind")], **{"pods --all-namespaces": [], "--raw /apis": {"groups": [group("apps", "v1")]}}
    )
    assert wrong(inspect_cluster(bare, "cpu")) == [("network", "warning")]


def groups_without(name):
    return {"--raw /apis": {"groups": [each for each in HEALTHY["--raw /apis"]["groups"] if each["name"] != name]}}


def pods_without(part):
    return {
        "pods --all-namespaces": [
            each for each in HEALTHY["pods --all-namespaces"] if part not in each["metadata"]["name"]
        ]
    }


def waiting(reason):
    state = {"waiting": {"reason": reason, "message": 'Back-off pulling image "eagleeye/triton@sha256:0"'}}
    return [{"name": "triton", "image": "eagleeye/triton@sha256:0", "state": state}]


def monitor(**endpoint):
    found = copy.deepcopy(HEALTHY[MONITORS])
    found[0]["spec"]["endpoints"] = [endpoint]
    return {MONITORS: found}


def keda(image):
    found = copy.deepcopy(HEALTHY["deployments -A"])
    found[0]["spec"]["template"]["spec"]["containers"][0]["image"] = image
    return {"deployments -A": found}


LABELLED = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
UNLABELLED_GPUS = [node("n", 2) | {"metadata": {"name": "n", "labels": {}}}]
BROKEN_CLUSTERS = {
    "an old server": ({"version": "v1.31.4"}, [("server", "missing")], "v1.31.4; 1.33 is the oldest"),
    "a node without a network": (
        {"nodes": [*HEALTHY["nodes"], node("new", ready="False")]},
        [("nodes", "missing")],
        "new is not ready: container runtime network not ready",
    ),
    "a node that has gone silent": (
        {"nodes": [*HEALTHY["nodes"], node("gone", ready="Unknown")]},
        [("nodes", "missing")],
        "gone is not ready",
    ),
    "a full disk": (
        {"nodes": [*HEALTHY["nodes"], node("full", DiskPressure="True")]},
        [("nodes", "warning")],
        "full reports DiskPressure",
    ),
    "no nodes": ({"nodes": []}, [("nodes", "missing"), ("gpus", "missing")], "none is there"),
    "a namespace of another profile": (
        {"namespace eagleeye": LABELLED},
        [("namespace", "warning")],
        "enforces baseline Pod Security profile",
    ),
    "an image that can't be had": (
        {
            "pods --all-namespaces": [
                *HEALTHY["pods --all-namespaces"],
                pod("eagleeye", "triton-1", containerStatuses=waiting("ImagePullBackOff")),
            ]
        },
        [("images", "missing")],
        "eagleeye/triton@sha256:0 of eagleeye/triton-1: Back-off pulling image",
    ),
    "flannel": (pods_without("calico"), [("network", "missing")], "no network that is known to enforce"),
    "no default class": ({"storageclasses": []}, [("storage", "warning")], "no StorageClass is the default"),
    "no GPU": ({"nodes": [node("n")]}, [("gpus", "missing")], "no node has nvidia.com/gpu to give"),
    "GPUs without labels": ({"nodes": UNLABELLED_GPUS}, [("gpus", "missing")], "2, on nodes without the label"),
    "no device plugin": (pods_without("device-plugin"), [("device-plugin", "missing")], "no pod called"),
    "an exporter that does not come up": (
        {
            "pods --all-namespaces": [
                *pods_without("dcgm")["pods --all-namespaces"],
                pod("g", "nvidia-dcgm-exporter-1", is_ready=False),
            ]
        },
        [("dcgm-exporter", "missing")],
        "1 of 1 pods are not ready",
    ),
    "an exporter that nobody scrapes": ({MONITORS: []}, [("dcgm-scraped", "missing")], "no ServiceMonitor selects"),
    "labels that are not honoured": (
        monitor(port="gpu-metrics", interval="5s"),
        [("dcgm-scraped", "warning")],
        "honorLabels is off",
    ),
    "no prometheus-operator": (
        groups_without("monitoring.coreos.com"),
        [("prometheus-operator", "missing")],
        "monitoring.coreos.com/v1",
    ),
    "Prometheus elsewhere": (
        {"services -A": [service("default", "prometheus-operated")]},
        [("prometheus", "missing"), ("kube-state-metrics", "warning")],
        "in the namespace monitoring, where KEDA asks",
    ),
    "no KEDA": (groups_without("keda.sh"), [("keda", "missing")], "keda.sh/v1alpha1"),
    "an old KEDA": (keda("ghcr.io/kedacore/keda:2.16.1"), [("keda", "missing")], "2.16.1; 2.20 mended fallbacks"),
    "KEDA's kinds without KEDA": ({"deployments -A": []}, [("keda", "missing")], "no Deployment keda-operator"),
    "prometheus-adapter beside it": (
        {"apiservice v1beta1.external.metrics.k8s.io": api_service("prometheus-adapter")},
        [("external-metrics", "missing")],
        "prometheus-adapter serves external metrics, and KEDA can't as well",
    ),
    "no external metrics": (
        {"apiservice v1beta1.external.metrics.k8s.io": None},
        [("external-metrics", "missing")],
        "nobody serves external metrics",
    ),
    "no metrics-server": ({"apiservice v1beta1.metrics.k8s.io": None}, [("metrics-server", "missing")], "not there"),
    "a metrics-server that can't reach the kubelets": (
        {"apiservice v1beta1.metrics.k8s.io": api_service("metrics-server", "False")},
        [("metrics-server", "missing")],
        "does not answer: endpoints for service/x have no addresses",
    ),
    "no Gateway API": (groups_without("gateway.networking.k8s.io"), [("gateway-api", "missing")], "are not there"),
    "the Gateway API without an implementation": (
        {"gatewayclasses.gateway.networking.k8s.io": []},
        [("gateway-api", "missing")],
        "no GatewayClass has an implementation",
    ),
}


@pytest.mark.parametrize("name", BROKEN_CLUSTERS)
def test_what_a_cluster_lacks_is_told(name):
    """That and nothing else, with words for people and something that mends it."""
    changes, expected, words = BROKEN_CLUSTERS[name]
    findings = inspect_cluster(cluster(**changes))
    assert wrong(findings) == expected
    assert any(words in each.found for each in findings), [each.found for each in findings]
    assert all(each.mend for each in findings if each.status is not preflight.Status.OK)


def test_an_image_by_digest_has_its_version_in_the_tag():
    """As charts write it that pin both."""
    assert wrong(inspect_cluster(cluster(**keda("ghcr.io/kedacore/keda:2.20.2@sha256:16")))) == []


def test_a_cluster_that_does_not_answer_is_told_in_a_line(capsys):
    """With a status of its own."""
    assert preflight.main(["cluster"], cluster=cluster(version=None)) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("preflight: kubectl reaches no API server")


@pytest.mark.parametrize(
    "said", ["", "null", "[]", "1", "{", "{}", '{"serverVersion": null}', '{"serverVersion": "1"}', "\ufffd"]
)
def test_a_kubectl_that_says_something_else_is_told_in_a_line(capsys, said):
    """Such as a wrapper that greets first."""
    assert preflight.main(["cluster"], cluster=preflight.Cluster(lambda *_: said)) == 2
    assert capsys.readouterr().err.startswith("preflight: kubectl reaches no API server")


@pytest.mark.parametrize("items", [{}, [None], [{}], [{"metadata": None}], [{"metadata": {"name": 5}}]])
def test_items_that_no_api_server_gives_are_told_in_a_line(capsys, items):
    """What is asked for is named."""
    answers = {"version": {"serverVersion": {"gitVersion": "v1.35.0"}}, "get": {"items": items or 1}}

    assert preflight.main(["cluster"], cluster=preflight.Cluster(lambda *words: json.dumps(answers[words[1]]))) == 2
    assert capsys.readouterr().err == "preflight: `kubectl get nodes` answers what no API server does\n"


VERSION = 'test "$1" = version && exec echo \'{"serverVersion": {"gitVersion": "v1.35.0"}}\''
FORBIDDEN = 'Error from server (Forbidden): nodes is forbidden: User "ann" cannot list resource "nodes"'


@pytest.mark.parametrize(
    "script, said",
    [
        (None, "kubectl reaches no API server (kubectl can't be run: No such file or directory): is it installed"),
        ("echo greetings", "(`kubectl version --output=json` answers what no API server does: 'greetings\\n')"),
        ("exit 3", "(`kubectl version --output=json` failed: it ended with status 3): "),
        ("echo 1>&2 refused; exit 1", "(`kubectl version --output=json` failed: refused): "),
        ("exec sleep 60", "(`kubectl version --output=json` has not answered within 0.2 s): "),
        (f"{VERSION}; echo '{FORBIDDEN}' >&2; exit 1", f"`kubectl get nodes --output=json` failed: {FORBIDDEN}"),
        (
            f"{VERSION}; echo '{{\"items\": [tr'",
            "`kubectl get nodes --output=json` answers what no API server does: '{",
        ),
    ],
    ids=["missing", "greeting", "silent", "refused", "hanging", "forbidden", "cut off"],
)
def test_what_kubectl_can_not_show_is_not_taken_for_missing(tmp_path, monkeypatch, capsys, script, said):
    """Nor for there: nothing is known of it, which one line says."""
    if script:
        (tmp_path / "kubectl").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    monkeypatch.setattr(preflight, "_SECONDS", 0.2 if "sleep" in (script or "") else 30)

    assert preflight.main(["cluster"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n"), said in shown.err) == ("", 1, True), shown.err


def test_what_the_server_does_not_have_is_missing(tmp_path, monkeypatch):
    """By kubectl's own words for a name, and for a kind."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for words in (
        'Error from server (NotFound): x "y" not found',
        'error: the server doesn\'t have a resource type "x"',
    ):
        (tmp_path / "kubectl").write_text(f"#!/bin/sh\necho {shlex.quote(words)} >&2; exit 1\n")
        (tmp_path / "kubectl").chmod(0o755)
        assert (preflight.Cluster().get("x", "y"), preflight.Cluster().items("x")) == (None, [])


def test_findings_for_people_and_for_programs(capsys):
    """What is wrong comes with what mends it; the exit status says whether something is missing."""
    arguments = ["cluster", "--overlay", "production"]
    assert preflight.main(arguments, cluster=cluster()) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("0 warning, 0 missing")
    assert preflight.main(arguments, cluster=cluster(storageclasses=[])) == 0  # it works without
    assert "warning  storage" in capsys.readouterr().out
    assert preflight.main(arguments, cluster=cluster(**groups_without("keda.sh"))) == 1
    assert re.search(r"missing  keda .*\n +-> docs/nodes.md#add-ons\n", capsys.readouterr().out)
    assert preflight.main([*arguments, "--json"], cluster=cluster(**groups_without("keda.sh"))) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ready"] is False
    assert {"check": "keda", "status": "missing", "mend": "docs/nodes.md#add-ons"}.items() <= next(
        each.items() for each in said["findings"] if each["check"] == "keda"
    )


def test_every_overlay_is_known_with_what_it_needs():
    """What it asks of a cluster is what its objects are of."""
    assert preflight.OVERLAYS.keys() == set(PLATFORMS)
    for overlay, needs in preflight.OVERLAYS.items():
        rendered = objects(K8S / "overlays" / overlay)
        assert needs.keda == bool(of_kind(rendered, "ScaledObject"))
        assert needs.monitoring == bool(of_kind(rendered, "PrometheusRule"))
        assert needs.entrance == bool(of_kind(rendered, "HTTPRoute", "NetworkPolicy"))
        assert needs.gpu == ("nvidia.com/gpu" in yaml.safe_dump(of_kind(rendered, "Deployment")))


# ---------------------------------------------------------------------------------------------------------- the guide


def blocks(text):
    """The indented code of a page."""
    return [
        "\n".join(line[4:] for line in block.splitlines())
        for block in re.findall(r"(?<=\n\n)((?:    .*\n|\n(?=    ))+)", text)
    ]


def anchors(text):
    return {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.*)$", text, re.MULTILINE)
    }


def test_every_section_that_a_finding_names_is_there():
    """Whatever is missing, the guide says how to get it."""
    named = set(re.findall(r'section\(\s*"([a-z-]+)"\s*\)', SCRIPT.read_text())) | {
        "gpu-operator", "metrics-server", "add-ons"
    }  # fmt: skip
    assert named <= anchors(GUIDE.read_text())
    assert len(named) > 8


def test_the_guide_installs_the_versions_that_the_script_knows():
    """They stand in one place; k8s/README.md installs the same KEDA."""
    guide = GUIDE.read_text()
    assert set(re.findall(r"core:/stable:/v([0-9.]+)/", guide)) == {preflight.KUBERNETES}
    assert set(re.findall(r"(?:kubernetesVersion: |--kubernetes-version=)v(\d+\.\d+)\.\d+", guide)) == {
        preflight.KUBERNETES
    }
    assert set(re.findall(r"projectcalico/calico/(v[0-9.]+)/", guide)) == {preflight.CALICO}
    assert set(re.findall(r"metrics-server/releases/download/(v[0-9.]+)/", guide)) == {preflight.METRICS_SERVER}
    assert set(re.findall(r"gpu-operator --version (v[0-9.]+)", guide)) == {preflight.GPU_OPERATOR}
    table = dict(re.findall(r"^\| ([\w -]+) \| ([\w. ]+) \|", guide, re.MULTILINE))
    assert table["Kubernetes"] == preflight.KUBERNETES
    assert table["Calico"] == preflight.CALICO
    assert table["GPU operator"] == preflight.GPU_OPERATOR
    assert table["metrics-server"] == preflight.METRICS_SERVER
    assert table["KEDA"] == preflight.KEDA
    assert table["NVIDIA driver"].split()[0] == ".".join(map(str, preflight.OLDEST_DRIVER))
    readme = (K8S / "README.md").read_text()
    assert f"--version {preflight.KEDA}" in readme
    assert preflight.version_of(preflight.KUBERNETES) >= preflight.OLDEST_KUBERNETES


@pytest.mark.parametrize("block", blocks(GUIDE.read_text()))
def test_every_command_of_the_guide_is_shell(block):
    """Nothing is left open, and what is written into files is YAML where it says so."""
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for text in re.findall(r"cat > \S+\.yaml <<'END'\n(.*?)\nEND", block, re.DOTALL):
        assert all(each["apiVersion"] and each["kind"] for each in yaml.safe_load_all(text))


def test_what_the_guide_sets_is_what_the_script_looks_for(tmp_path):
    """Its edits of containerd's configuration, and its files for the kernel, make a healthy node."""
    guide = GUIDE.read_text()
    config = tmp_path / "config.toml"
    recorded = (RECORDED / "containerd-2.toml").read_text()
    config.write_text(
        recorded.replace("SystemdCgroup = true", "SystemdCgroup = false").replace("pause:3.10.1", "pause:3.8")
    )
    edits = [line.strip() for line in guide.splitlines() if line.strip().startswith("sed -i") and "config.toml" in line]
    assert len(edits) == 2
    for edit in edits:
        shell = f"pause=registry.k8s.io/pause:3.10.1\n{edit.replace('/etc/containerd/config.toml', str(config))}"
        subprocess.run(["bash", "-eu"], input=shell, text=True, check=True)
    modules = subprocess.run(
        ["bash"], input=re.search(r"(printf .*) >", guide)[1], text=True, capture_output=True, check=True
    ).stdout
    (settings,) = re.findall(r"90-kubernetes\.conf <<'END'\n(.*?)\n +END", guide, re.DOTALL)
    files = {
        f"/proc/sys/{name.replace('.', '/')}": value
        for name, value in (line.strip().split(" = ") for line in settings.splitlines())
    }
    made = machine(
        {**files, "/etc/modules-load.d/kubernetes.conf": modules}, {"containerd config dump": config.read_text()}
    )
    assert wrong(inspect(made)) == []
