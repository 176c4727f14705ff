"""A far end without its stages: what ``worker.server`` answers over HTTP, in a fifth of its start-up.

Travels as ``accel.worker.server`` in ``stub_end.wheel``, with the real ``accel.worker.boot`` beside it, so
that boot, TLS, token, lifetime and idle stop are the real ones. A job sleeps ``seconds`` and leaves files. A
file "fault" in its working directory makes downloads ``truncated`` or ``missing``.
"""

import hashlib
import http.server
import json
import signal
import threading
import time
from pathlib import Path

from accel.worker import boot


class Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs, files = dict[str, bytes](), dict[str, bytes]()  # of the one machine that this process is
    ends = None  # of the job; None before there is one

    def one(self):
        machine, path = self.server.machine, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.server.knows(self.headers):
            return self.tell(401, {"error": "Unauthorised", "message": "the token is asked for"})
        match self.command, path.split("/")[1:]:
            case "GET", ["health"]:
                idle_s = time.monotonic() - machine.used
                return self.tell(200, {"state": "ready", "resident": [], "idle_s": idle_s, "device": "cpu",
                                       "ends_in_s": machine.ends - time.monotonic(), "job": self.job()})
            case "GET", ["job"]:
                return self.tell(200, self.job())
        machine.used = time.monotonic()
        match self.command, path.split("/")[1:]:
            case ("GET" | "PUT"), ["blobs" | "indexes", name]:
                if self.command == "PUT":
                    self.blobs[name] = body
                have = name in self.blobs
                size = len(self.blobs.get(name, b""))
                return self.tell(200, {"have": size, "whole": have, "attached": have})
            case "PUT", ["job"]:
                job = json.loads(body)["job"]
                type(self).ends = self.ends or time.monotonic() + float(job["seconds"])
                self.files["result.json"] = json.dumps({"task_id": job["task_id"]}).encode() + b" " * 100_000
                self.files["job.log"] = b"slept\n"
                return self.tell(200, self.job())
            case "GET", ["job", "files"]:
                told = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
                        for n, d in self.files.items()}
                return self.tell(200, {"files": told})
            case "GET", ["job", "files", name]:
                fault = Path("fault").read_text() if Path("fault").exists() else ""
                if fault == "missing":
                    return self.tell(404, {"error": "Rejected", "message": "no such file of the job"})
                return self.tell(200, self.files[name], len(self.files[name]) // 2 if fault else None)
            case "POST", [_]:
                return self.tell(200, body)  # an envelope is its own answer
        return self.tell(404, {"error": "Rejected", "message": "there is nothing of this name"})

    do_GET = do_PUT = do_POST = do_DELETE = one

    def job(self):
        if self.ends is None:
            return {"state": "absent", "message": ""}
        return {"state": "done" if time.monotonic() >= self.ends else "running", "message": ""}

    def tell(self, status, said, sent=None):
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        self.close_connection = sent is not None

    def log_message(self, *args):
        pass


def work(machine):
    server = boot.Listener(machine.env, Door)
    server.machine = machine
    machine.busy = lambda: Door.ends is not None and time.monotonic() < Door.ends
    threading.Thread(target=server.serve_forever, daemon=True).start()
    notice = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: notice.set())
    notice.wait()


if __name__ == "__main__":
    boot.main(work)
