"""RunPod's own package, unmodified, in an environment of its own: what a user of it would write.

Usage: python runpod_driver.py. The sandbox is told by RUNPOD_API_BASE_URL, RUNPOD_ENDPOINT_BASE_URL and
RUNPOD_API_KEY. Prints one JSON object of what came back.
"""

import json
import os
import time

import runpod

# 1.x reads its key from ~/.runpod/config.toml only (1.12.0, __init__.py:81-85)
runpod.api_key = os.environ["RUNPOD_API_KEY"]
OLD = runpod.__version__.startswith("1.")
GPU = "NVIDIA GeForce RTX 4090"
HANDLER = (
    "python3 -c 'import runpod; runpod.serverless.start({\"handler\": "
    "lambda job: {\"twice\": 2 * job[\"input\"][\"number\"]}})'"
)


def until(look, wanted):
    for _ in range(300):
        found = look()
        if wanted(found):
            return found
        time.sleep(0.1)
    raise SystemExit(f"never as wanted: {found}")


def state(pod):
    """1.x: desiredStatus, and no runtime until it is up."""
    if pod is None:
        return None
    if OLD:
        return pod["desiredStatus"] if pod["runtime"] or pod["desiredStatus"] != "RUNNING" else "starting"
    return pod["status"]


def pods():
    made = runpod.create_pod(
        "by-the-vendor", "an/image:1", GPU, cloud_type="COMMUNITY", ports="8000/http", env={"A": "b"},
        docker_args="python3 -m http.server 8000",
    )  # fmt: skip
    ident = made["id"]
    told = {"listed": [p["id"] for p in runpod.get_pods()] == [ident]}
    look = lambda: state(runpod.get_pod(ident))  # noqa: E731
    told["up"] = until(look, lambda s: s == "RUNNING")
    env = runpod.get_pod(ident)["env"]
    told["env"] = env
    runpod.stop_pod(ident)
    told["stopped"] = look()
    runpod.resume_pod(ident, *([1] if OLD else []))
    told["again"] = until(look, lambda s: s == "RUNNING")
    runpod.terminate_pod(ident)
    told["after"] = look()
    told["left"] = runpod.get_pods()
    return told


def refused():
    """What a user is told of a body that cannot be, and of a GPU that is not there."""
    told = {}
    for name, gpu in (("none free", "NVIDIA B200"), ("unknown", "NVIDIA H9000")):
        try:
            runpod.create_pod("no", "an/image:1", gpu)
            told[name] = "made"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    return told


def serverless():
    template = runpod.create_template("t", "an/image:1", docker_start_cmd=HANDLER, is_serverless=True)
    made = runpod.create_endpoint("e", template["id"], gpu_ids="ADA_24", workers_max=1, idle_timeout=600)
    told = {"endpoints": [e["name"] for e in runpod.get_endpoints()]}
    endpoint = runpod.Endpoint(made["id"])
    told["sync"] = endpoint.run_sync({"input": {"number": 21}}, timeout=60)
    job = endpoint.run({"input": {"number": 4}})
    told["async"] = job.output(timeout=60)
    told["status"] = job.status()
    failed = endpoint.run({"input": {"nothing": 1}})
    told["failed"] = until(failed.status, lambda s: s in ("FAILED", "COMPLETED"))
    # 1.x and 2.0 drop all but the output: the whole answer is below them
    whole = endpoint.rp_client.get(f"{made['id']}/status/{job.job_id}")
    told["times"] = sorted(k for k in whole if k.endswith("Time"))
    told["health"] = endpoint.health()["workers"]
    return told


print(json.dumps({
    "version": runpod.__version__, "gpus": sorted(g["id"] for g in runpod.get_gpus()),
    "gpu": runpod.get_gpu(GPU), "user": runpod.get_user()["id"], "pods": pods(), "refused": refused(),
    "serverless": serverless(),
}))  # fmt: skip
