"""The proof of the lock: what a stranger with no token, or a wrong one, gets at every socket that a head listens on.

What stays open is listed here in full, and in cluster/README.md.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
from ray.core.generated import core_worker_pb2, gcs_service_pb2, node_manager_pb2, ray_client_pb2, reporter_pb2

from tests.cluster.pcs import await_listening, call, job_log, listening, members, stop, submit

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head")]

OPEN_PORTS = {"metrics", "dashboard_metrics", "autoscaler_metrics"}
"""They answer with Prometheus text to anybody."""
OPEN_PATHS = {
    "dashboard": {"/", "/api/authentication_mode", "/api/gcs_healthz"},
    "dashboard_agent_http": {"/api/healthz", "/api/local_raylet_healthz"},
    "runtime_env_agent": set(),
}
OPEN_CALLS = {"/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}
"""Whether it lives, and which methods it has: answered to anybody by Ray's servers in C++."""

GRPC = ("gcs", "node_manager", "object_manager", "dashboard_agent_grpc", "client_server", "worker")
REAL_CALLS = {
    "gcs": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "node_manager": "/ray.rpc.NodeManagerService/GetNodeStats",
    "object_manager": "/ray.rpc.ObjectManagerService/Pull",
    "dashboard_agent_grpc": "/ray.rpc.ReporterService/GetTraceback",
    "client_server": "/ray.rpc.RayletDriver/ClusterInfo",
    "worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
}
"""One harmless method of each, which the holder of the token may call."""
PATHS = (
    "/api/version",
    "/api/jobs/",
    "/api/v0/nodes",
    "/api/v0/logs",
    "/api/cluster_status",
    "/api/job_agent/jobs/",
    "/api/packages/gcs/x",
    "/api/serve/applications/",
    "/nodes?view=summary",
    "/logs",
    "/metrics",
)
WRONG = "0" * 64
JOBS_WORD = "only-for-the-owner"
# A driver with a worker: one that has no work Ray may end at any time.
JOB = f"""
import ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, label_selector={{"vr/node": "attic"}})
class Worker:
    def work(self):
        return 1
worker = Worker.remote()
ray.get(worker.work.remote())
print({JOBS_WORD!r}, flush=True)
time.sleep(600)
"""


def methods():
    """Every method of Ray's services, as its own descriptions have them; the object manager's are not in the wheel."""
    names = [f"/ray.rpc.ObjectManagerService/{name}" for name in ("Push", "Pull", "FreeObjects")]
    for module in (core_worker_pb2, gcs_service_pb2, node_manager_pb2, ray_client_pb2, reporter_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            names += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return names


def ask(channel, method, token=None):
    """Status of an empty call of `method`."""
    headers = [("authorization", f"Bearer {token}")] if token else []
    try:
        # Of a stream the first answer is enough, and to an empty one there may be none for long.
        for _ in channel.unary_stream(method)(b"", timeout=20, metadata=headers):
            break
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def get(url, token=None, body=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module")
def locked(loopback):
    """The account of a head with a LAN address, the head, and the id of a job on it that goes on."""
    pc, head = loopback.attic, loopback.head
    job = submit(head, pc.token, f"{sys.executable} -c {shlex.quote(JOB)}")
    try:
        await_listening(head, set(head.ports.singles(head=True).values()))
        deadline = time.monotonic() + 120
        while JOBS_WORD not in job_log(head, pc.token, job):
            assert time.monotonic() < deadline, "the job does not start"
            time.sleep(0.2)
        yield pc, head, job
    finally:
        stop(head, pc.token, job)


@pytest.fixture(scope="module")
def sockets(locked):
    """Name → `address:port` of every listening socket; the first worker's is called worker."""
    _, head, _ = locked
    names = {port: name for name, port in head.ports.singles(head=True).items()}
    found = {}
    for address, port in sorted(listening(head)):
        is_worker = head.ports.worker_low <= port <= head.ports.worker_high
        name = "worker" if is_worker else names.pop(port, None) or next(n for n in found if f":{port}" in found[n])
        found[name] = f"{'127.0.0.2' if address in ('*', '0.0.0.0', '::') else address}:{port}"
    assert not names, "not listening"
    return found


def test_every_socket_is_known(sockets):
    assert set(sockets) == {*GRPC, *OPEN_PATHS, *OPEN_PORTS, "admission"}


@pytest.mark.parametrize("name", GRPC)
def test_no_method_of_rays_services_answers_without_the_token(locked, sockets, name):
    pc = locked[0]
    with grpc.insecure_channel(sockets[name]) as channel:
        told = {method: ask(channel, method) for method in methods()}
        there = {method for method, status in told.items() if status != "UNIMPLEMENTED"}
        assert {method: told[method] for method in there if told[method] != "UNAUTHENTICATED"} == {}
        assert REAL_CALLS[name] in there
        assert ask(channel, REAL_CALLS[name], WRONG) == "UNAUTHENTICATED"
        assert ask(channel, REAL_CALLS[name], pc.token) not in ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE")
        # Ray's servers in Python have none of the two.
        answered = {method for method in OPEN_CALLS if ask(channel, method) == "OK"}
        assert answered == (set() if name in ("dashboard_agent_grpc", "client_server") else OPEN_CALLS)


@pytest.mark.parametrize("name", sorted(OPEN_PATHS))
def test_web_servers_show_health_and_the_empty_page_only(locked, sockets, name):
    pc = locked[0]
    url = f"http://{sockets[name]}"
    candidates = {*PATHS, *(path for paths in OPEN_PATHS.values() for path in paths)}
    for token, refused in ((None, 401), (WRONG, 403)):
        status = {path: get(url + path, token) for path in candidates}
        assert {path for path in candidates if status[path] == 200} == OPEN_PATHS[name]
        # 404 to anybody: pages that exist, on another server of Ray's, without a token.
        assert {status[path] for path in PATHS} == {refused}
    assert get(f"{url}/api/version", pc.token) in (200, 404)
    assert get(f"{url}/get_or_create_runtime_env", None, b"") == 401


def test_a_stranger_submits_no_job_reads_no_log_and_stops_nothing(locked):
    pc, head, job = locked
    jobs = f"{head.dashboard_url}/api/jobs/"
    before = call(jobs, pc.token)[1]
    for token, refused in ((None, 401), (WRONG, 403)):
        assert get(jobs, token, b'{"entrypoint": "true"}') == refused
        assert get(f"{jobs}{job}", token) == refused
        assert get(f"{jobs}{job}/logs", token) == refused
        assert get(f"{jobs}{job}/stop", token, b"") == refused
        node = f"{head.dashboard_url}/api/v0/logs/file?node_ip=127.0.0.2&filename=job-driver-{job}.log"
        assert get(node, token) == refused
    assert [j["submission_id"] for j in call(jobs, pc.token)[1]] == [j["submission_id"] for j in before]
    assert call(jobs + job, pc.token)[1]["status"] == "RUNNING"


def stranger(tmp_path, token):
    """Environment of a Ray process of somebody else: without tokens, or with that one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    if token:
        file = tmp_path / "token"
        file.touch(mode=0o600)
        file.write_text(token)
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}
    return environment


def run(argv, environment):
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def test_a_stranger_connects_no_driver_and_joins_no_node(locked, tmp_path):
    """Without a token and with a wrong one; all at once, since each tries for long."""
    pc, head, _ = locked
    driver = f"import ray; ray.init({head.gcs_address!r}); print('CONNECTED', len(ray.nodes()))"
    node = ["--block", f"--address={head.gcs_address}", "--node-ip-address=127.0.0.5", "--num-cpus=1"]
    tries = {"Failed to connect to Ray cluster": ["-c", driver],
             "InvalidAuthToken": ["-m", "ray.scripts.scripts", "start", *node]}  # fmt: skip
    with ThreadPoolExecutor() as pool:
        told = []
        for token in (None, WRONG):
            for refusal, arguments in tries.items():
                (home := tmp_path / str(len(told))).mkdir()
                told.append((refusal, pool.submit(run, [sys.executable, *arguments], stranger(home, token))))
    for refusal, ended in told:
        code, said = ended.result()
        assert code != 0
        assert refusal in said
    nodes = call(f"{head.dashboard_url}/api/v0/nodes", pc.token)[1]["data"]["result"]["result"]
    assert "127.0.0.5" not in {node["node_ip"] for node in nodes}
    assert {node["node_name"] for node in nodes if node["state"] == "ALIVE"} == {"attic", "cellar"}


def test_the_owner_connects_a_driver(locked, tmp_path):
    pc, head, _ = locked
    driver = f"import ray; ray.init({head.gcs_address!r}); print('CONNECTED', *(n['NodeName'] for n in ray.nodes()))"
    code, said = run([sys.executable, "-c", driver], stranger(tmp_path, pc.token))
    assert (code, "CONNECTED" in said, "attic" in said) == (0, True, True), said


@pytest.mark.parametrize("name", sorted(OPEN_PORTS))
def test_metrics_are_open_and_name_no_secret(locked, sockets, name):
    pc = locked[0]
    with urllib.request.urlopen(f"http://{sockets[name]}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    assert "# HELP" in text
    assert pc.token not in text
    assert JOBS_WORD not in text


def test_the_object_stores_sockets_are_their_owners_alone(locked):
    _, head, _ = locked
    # Ray opens its own folder to every account of the PC, so that the one above it has to be closed.
    assert head.temp_dir.parent.stat().st_mode & 0o777 == 0o700
    inside = set()
    for process in members(head):
        with contextlib.suppress(OSError, psutil.Error):  # it may end while it is looked at
            inside |= {c.laddr for c in process.net_connections(kind="unix") if c.laddr.endswith("plasma_store")}
    assert inside
    assert all(path.startswith(str(head.temp_dir.resolve())) for path in inside)
