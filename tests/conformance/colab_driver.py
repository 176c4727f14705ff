"""Google's own client drives a sandbox Colab, and Jupyter's a kernel on it. Run by ``test_vendor_colab`` in
an environment of its own; prints one JSON line. Nothing of theirs is patched."""

import importlib.metadata
import json
import os
import time
import uuid

import jupyter_kernel_client
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

URL = os.environ["COLAB_URL"]
USER = json.loads(os.environ["COLAB_USER"])


def client(version, credentials):
    return build(
        "colaboratory", version, credentials=credentials, static_discovery=True,
        client_options={"api_endpoint": URL},
    )


def main():
    signed = Credentials(
        None, refresh_token=USER["refresh_token"], client_id=USER["client_id"],
        client_secret=USER["client_secret"], token_uri=f"{URL}/token",
    )
    beta, v1 = client("v1beta", signed), client("v1", signed)
    told = {"version": importlib.metadata.version("google-api-python-client")}
    told["tier"] = beta.v1beta().getSubscription(name="subscription").execute()["tier"]
    specs = beta.runtimespecs().list().execute()["runtimeSpecs"]
    told["eligible"] = sorted({s["key"]["accelerator"] for s in specs if s["eligible"]})

    def create(ident, accelerator, request_id=None):
        spec = {"variant": "VARIANT_GPU", "accelerator": accelerator, "shape": "SHAPE_STANDARD"}
        return beta.runtimes().create(
            runtimeId=ident, requestId=request_id or str(uuid.uuid4()), body={"runtimeSpec": spec}
        ).execute()

    refused = create("accel-a", "A100")
    told["refused"] = [refused["error"]["code"], refused["error"]["details"][0]["reason"]]
    once = str(uuid.uuid4())
    order = create("accel-t", "T4", once)
    told["again"] = create("accel-t", "T4", once)["name"] == order["name"]
    told["too many"] = create("accel-u", "T4")["error"]["details"][0]["reason"]
    while not order.get("done"):
        time.sleep(0.1)
        order = v1.operations().get(name=order["name"]).execute()
    told["waited"] = v1.operations().wait(name=order["name"]).execute()["done"]
    runtime = beta.runtimes().get(name="runtimes/accel-t").execute()
    told["listed"] = [r["name"] for r in beta.runtimes().list().execute()["runtimes"]]
    way = runtime["connectionInfo"]
    with jupyter_kernel_client.KernelClient(
        server_url=way["url"], token=way["token"],
        headers={"X-Colab-Runtime-Proxy-Token": way["token"]},
    ) as kernel:
        reply = kernel.execute("import os; print(os.getcwd().rsplit('/', 1)[-1]); 6 * 7", timeout=60)
        outputs = [o.get("text") or o["data"]["text/plain"] for o in reply["outputs"]]
        told["kernel"] = [reply["status"], outputs]
    told["deleted"] = beta.runtimes().delete(name="runtimes/accel-t").execute()
    try:
        beta.runtimes().get(name="runtimes/accel-t").execute()
    except HttpError as error:
        told["gone"] = [error.status_code, error.reason]
    try:
        client("v1beta", Credentials("wrong")).runtimes().list().execute()
    except Exception as error:
        told["wrong"] = f"{type(error).__name__}"
    print(json.dumps(told))


main()
