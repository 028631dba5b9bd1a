#!/usr/bin/env python3
"""Runs nodens against a real kube-apiserver, and checks what it does with pods, permissions, lost watches and the startup taint.

    tests/cluster/check.py KUBE_APISERVER NODENS

tests/cluster/build makes the kube-apiserver. Needed besides: `etcd` and `etcdctl` of the package etcd-server and etcd-client, `openssl`,
and PyYAML. Everything listens on loopback, and ends with the script.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

DEADLINE = 120
ROOT = pathlib.Path(__file__).resolve().parents[2]
TAINT = "nodens.io/not-ready"
server_program, nodens_program = sys.argv[1:]
work = pathlib.Path(tempfile.mkdtemp(prefix="nodens-cluster-"))
processes = {}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


etcd_port, peer_port, api_port, dns_port, admin_port = (free_port() for _ in range(5))


def start(name, *words, **more):
    log = open(work / f"{name}.log", "a")
    processes[name] = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, **more)


def stop(name, how=signal.SIGTERM):
    process = processes.pop(name)
    process.send_signal(how)
    process.wait(DEADLINE)


def eventually(what, check):
    begin = time.monotonic()
    while time.monotonic() - begin < DEADLINE:
        try:
            found = check()
        except (OSError, urllib.error.HTTPError, KeyError, StopIteration):
            found = None
        if found:
            print(f"{time.monotonic() - begin:6.2f} s  {what}", flush=True)
            return found
        time.sleep(0.02)
    sys.exit(f"not seen: {what}; the logs are in {work}")


def api(method, path, body=None, kind="application/json", token="admin"):
    request = urllib.request.Request(f"https://127.0.0.1:{api_port}{path}", method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", kind)
    context = ssl.create_default_context(cafile=work / "certs/apiserver.crt")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=30, context=context) as response:
        return json.load(response)


def start_server():
    start(
        "apiserver", server_program, "--etcd-servers", f"http://127.0.0.1:{etcd_port}", "--bind-address", "127.0.0.1",
        "--advertise-address", "127.0.0.1", "--secure-port", api_port, "--cert-dir", work / "certs",
        "--service-cluster-ip-range", "10.96.0.0/24", "--authorization-mode", "RBAC",
        "--token-auth-file", work / "tokens.csv", "--service-account-issuer", "https://kubernetes.default.svc",
        "--service-account-key-file", work / "sa.pub", "--service-account-signing-key-file", work / "sa.key",
        "--disable-admission-plugins", "ServiceAccount",
    )  # fmt: skip
    eventually("the API server is ready", lambda: api("GET", "/api/v1/namespaces/default"))


def create(objects):
    paths = {
        "Namespace": "/api/v1/namespaces",
        "ServiceAccount": "/api/v1/namespaces/nodens/serviceaccounts",
        "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    }
    for each in objects:
        api("POST", paths[each["kind"]], each)


def read(file):
    return list(yaml.safe_load_all((ROOT / "deploy/kustomize" / file).read_text()))


def put_pod(name, address):
    labels = {"project.runner.gitlab.com/id": "42", "job.runner.gitlab.com/pod": name}
    spec = {"nodeName": "node-1", "containers": [{"name": "build", "image": "alpine"}]}
    api("POST", "/api/v1/namespaces/ci/pods", {"metadata": {"name": name, "labels": labels}, "spec": spec})
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
    api("PATCH", f"/api/v1/namespaces/ci/pods/{name}/status", status, "application/merge-patch+json")


def page(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}{path}", timeout=30) as response:
        return response.read().decode()


def client(address):
    return json.loads(page(f"/api/v1/clients?address={address}"))


def metric(name):
    return next(float(line.split()[-1]) for line in page("/metrics").splitlines() if line.startswith(name))


def start_nodens():
    start("nodens", nodens_program, "serve", "--log", "json", "--config", work / "nodens.toml")
    eventually("nodens serves", lambda: page("/healthz"))


def taints():
    return [taint["key"] for taint in api("GET", "/api/v1/nodes/node-1")["spec"].get("taints", [])]


def logged(text):
    return text in (work / "nodens.log").read_text()


def main():
    (work / "tokens.csv").write_text("admin,admin,admin,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", work / "sa.key", "2048"], check=True, capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", work / "sa.key", "-pubout", "-out", work / "sa.pub"], check=True, capture_output=True)
    client_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    start(
        "etcd", "etcd", "--data-dir", work / "etcd", "--listen-client-urls", client_url, "--advertise-client-urls", client_url,
        "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url, "--initial-cluster", f"default={peer_url}",
    )  # fmt: skip
    start_server()
    eventually("the roles of the API server", lambda: api("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin"))
    rbac = read("base/rbac.yaml")
    account = [each for each in rbac if each["kind"] == "ServiceAccount"]
    create([{"kind": "Namespace", "metadata": {"name": name}} for name in ("nodens", "ci")] + account)
    other = {"key": "example.com/other", "effect": "NoSchedule"}
    node = {"metadata": {"name": "node-1"}, "spec": {"taints": [other, {"key": TAINT, "effect": "NoSchedule"}]}}
    api("POST", "/api/v1/nodes", node)
    put_pod("runner-one", "10.244.1.7")
    token = api("POST", "/api/v1/namespaces/nodens/serviceaccounts/nodens/token", {"spec": {}})["status"]["token"]
    (work / "token").write_text(token)
    (work / "nodens.toml").write_text(
        f'[server]\nlisten = ["127.0.0.1:{dns_port}"]\n[admin]\nlisten = "127.0.0.1:{admin_port}"\n'
        f'[kubernetes]\nwatch = true\nnode = "node-1"\napi_server = "https://127.0.0.1:{api_port}"\n'
        f'ca_file = "{work}/certs/apiserver.crt"\ntoken_file = "{work}/token"\n'
        '[upstreams.up]\nservers = ["127.0.0.1:9"]\n[[route]]\nzones = ["."]\nto = "up"\n'
    )

    start_nodens()
    eventually("without a role the log names what is missing", lambda: logged("needs a role with list and watch on pods"))
    assert client("10.244.1.7")["known"] is False
    create([each for each in rbac if each["kind"] != "ServiceAccount"])
    eventually("the role is noticed", lambda: metric("nodens_watch_connected") == 1)
    eventually("a pod from the list", lambda: client("10.244.1.7")["name"] == "runner-one")
    assert client("10.244.1.7")["job"]["project_id"] == {"value": "42", "trust": "label"}
    put_pod("runner-two", "10.244.1.8")
    eventually("a pod from the watch", lambda: client("10.244.1.8")["name"] == "runner-two")
    api("DELETE", "/api/v1/namespaces/ci/pods/runner-two", {"gracePeriodSeconds": 0})
    eventually("a deleted pod", lambda: client("10.244.1.8")["known"] is False)
    assert TAINT in taints(), "nodens may not change nodes yet"

    # All versions that nodens knows are compacted away while no API server runs.
    stop("apiserver")
    etcdctl = ["etcdctl", "--endpoints", client_url]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    for number in range(50):
        subprocess.run([*etcdctl, "put", "/other", str(number)], check=True, capture_output=True, env=environment)
    found = subprocess.run([*etcdctl, "get", "/other", "-w", "json"], check=True, capture_output=True, env=environment)
    revision = json.loads(found.stdout)["header"]["revision"]
    subprocess.run([*etcdctl, "compact", str(revision)], check=True, capture_output=True, env=environment)
    start_server()
    eventually("a list after 410 Gone", lambda: metric('nodens_watch_restarts_total{reason="gone"}') >= 1)
    eventually("the watch is back", lambda: metric("nodens_watch_connected") == 1)
    assert client("10.244.1.7")["name"] == "runner-one"
    put_pod("runner-three", "10.244.1.9")
    eventually("a pod from the new watch", lambda: client("10.244.1.9")["name"] == "runner-three")

    create(read("components/startup-taint/rbac.yaml"))
    stop("nodens")
    start_nodens()
    eventually("the startup taint is gone", lambda: TAINT not in taints())
    assert "example.com/other" in taints(), taints()
    print("all is as expected")
    for name in list(processes):
        stop(name, signal.SIGKILL)
    shutil.rmtree(work)


try:
    main()
finally:
    for name in list(processes):
        stop(name, signal.SIGKILL)
