"""Modal's calls on apps, files, volumes and bills. Guarantee: an app is deployed when it is published.

Evidence: modal 1.6.4 as installed; ``runner`` = modal/runner.py, ``fn`` = modal/_functions.py. A method is
named after its RPC and gets the request; it returns the answer, or raises ``Refused`` with an HTTP status.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Any

from accel.sandbox.modal_billing import dollars, report
from accel.sandbox.modal_containers import Containers
from accel.sandbox.modal_state import (
    DEPLOYED,
    HEX,
    INITIALIZING,
    STOPPED,
    SUCCESS,
    App,
    Function,
    State,
    new_id,
    protocol,
)
from accel.sandbox.wire import Refused

ENVIRONMENT, WORKSPACE = "main", "sandbox"
BUILDER = "2025.06"  # modal 1.6.4, builder/: the newest image builder that the client holds
BLOCK = 8 << 20  # modal/_utils/blob_utils.py:63
SILENT_S = 60.0  # an app that is being deployed and sends no heartbeat (every 15 s: config.py) is given up


class ObjectCalls:
    """One account's calls. url: of the blobs. interval_s: of the billing report, scaled."""

    def __init__(self, state: State, containers: Containers, *, interval_s: float) -> None:
        self.pb = protocol()
        self.state, self.containers, self.interval_s = state, containers, interval_s
        self.url = ""

    # --- workspace

    def ClientHello(self, request: Any) -> Any:
        return self.pb.ClientHelloResponse(image_builder_version=BUILDER)

    def WorkspaceNameLookup(self, request: Any) -> Any:
        return self.pb.WorkspaceNameLookupResponse(workspace_name=WORKSPACE, username=WORKSPACE)

    def EnvironmentGetOrCreate(self, request: Any) -> Any:
        settings = self.pb.EnvironmentSettings(image_builder_version=BUILDER)
        name = request.deployment_name or ENVIRONMENT
        metadata = self.pb.EnvironmentMetadata(name=name, settings=settings)
        return self.pb.EnvironmentGetOrCreateResponse(environment_id="en-" + "0" * 22, metadata=metadata)

    def WorkspaceBillingRates(self, request: Any) -> Any:
        rates = {name: dollars(nano) for name, nano in self.containers.rates.items()}
        return self.pb.WorkspaceBillingRatesResponse(rates=rates, formatted=str(rates))

    def WorkspaceBillingReport(self, request: Any) -> Any:
        """A stream: rows in the order of their intervals."""
        start, end = (t.ToMicroseconds() / 1e6 for t in (request.start_timestamp, request.end_timestamp))
        rows = report(self.state, self.containers.all.values(), start, min(end, self.state.now()),
                      self.interval_s, request.app_ids)  # fmt: skip
        for app, at, nano in rows:
            item = self.pb.WorkspaceBillingReportItem(
                object_id=app, description=self.state.apps[app].description, environment_name=ENVIRONMENT,
                cost=dollars(nano), cost_by_resource={"all": dollars(nano)},
            )  # fmt: skip
            item.interval.FromMicroseconds(round(at * 1e6))
            yield item

    # --- apps

    def AppCreate(self, request: Any) -> Any:
        now = self.state.now()
        app = App(new_id("ap"), request.description, request.app_state, now, heartbeat_at=now)
        self.state.apps[app.id] = app
        return self.pb.AppCreateResponse(app_id=app.id, app_page_url=f"{self.url}/apps/{app.id}")

    def AppHeartbeat(self, request: Any) -> Any:
        self.app(request.app_id).heartbeat_at = self.state.now()

    def AppGetByDeploymentName(self, request: Any) -> Any:
        app, former = self.state.deployed(request.name), self.state.stopped(request.name)
        answer = self.pb.AppGetByDeploymentNameResponse(environment_name=ENVIRONMENT)
        if app is not None:
            answer.app_id = app.id
        elif former is not None:
            answer.previous_app_id = former.id
        if (shown := app or former) is not None:
            answer.lifecycle.CopyFrom(self.lifecycle(shown))
        return answer

    def AppGetOrCreate(self, request: Any) -> Any:
        """modal/app.py:470, ``App.lookup``: only of what is deployed."""
        app = self.state.deployed(request.app_name)
        if app is None:
            raise Refused(404, f"no app {request.app_name!r} is deployed")
        return self.pb.AppGetOrCreateResponse(app_id=app.id)

    def AppGetLifecycle(self, request: Any) -> Any:
        return self.pb.AppGetLifecycleResponse(lifecycle=self.lifecycle(self.app(request.app_id)))

    def AppGetLayout(self, request: Any) -> Any:
        app = self.app(request.app_id)
        layout = self.pb.AppLayout(function_ids=app.functions)
        for ident in app.functions.values():
            handle = self.state.functions[ident].handle
            layout.objects.append(self.pb.Object(object_id=ident, function_handle_metadata=handle))
        return self.pb.AppGetLayoutResponse(app_layout=layout)

    def AppList(self, request: Any) -> Any:
        self._give_up()
        answer = self.pb.AppListResponse()
        for app in self.state.apps.values():
            tasks = sum(len(self.containers.live(f)) for f in self._functions(app))
            answer.apps.add(
                app_id=app.id, description=app.description, name=app.name, state=app.state,
                created_at=app.created_at, stopped_at=app.stopped_at, n_running_tasks=tasks,
            )  # fmt: skip
        return answer

    def AppPublish(self, request: Any) -> Any:
        """runner:284: from here on the app is found under its name."""
        app = self.app(request.app_id)
        app.functions = dict(request.function_ids)
        if request.app_state:
            app.state = request.app_state
        if request.name:
            app.name = app.description = request.name
        app.version += 1
        app.deployed_at = self.state.now()
        for ident in app.functions.values():
            self.containers.scale(self.state.functions[ident])
        return self.pb.AppPublishResponse(url=f"{self.url}/apps/{app.id}", deployed_at=app.deployed_at)

    async def AppStop(self, request: Any) -> Any:
        """Terminates its containers; what waits is cancelled."""
        await self.stop(self.app(request.app_id))

    async def AppClientDisconnect(self, request: Any) -> Any:
        """Stops an app that is not deployed (runner:647)."""
        app = self.app(request.app_id)
        if app.state != DEPLOYED:
            await self.stop(app)

    async def stop(self, app: App) -> None:
        """Stop one app."""
        if app.state == STOPPED:
            return
        app.state, app.stopped_at = STOPPED, self.state.now()
        terminated = self.pb.GenericResult(status=3, exception="the app was stopped")
        for ident in self._functions(app):
            function = self.state.functions[ident]
            while function.pending:
                self.state.end(function.pending.pop(), terminated)
            for container in self.containers.live(ident):
                await self.containers.kill(container, "the app was stopped", 3)
        await self.state.notify()

    # --- images, mounts, blobs

    def ImageGetOrCreate(self, request: Any) -> Any:
        """Nothing is built: see ``modal_containers``. Equal definitions are one image."""
        digest = hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()
        metadata = self.pb.ImageMetadata(
            python_version_info=f"Python {platform.python_version()}", image_builder_version=BUILDER
        )
        return self.pb.ImageGetOrCreateResponse(
            image_id="im-" + digest[:22], result=self.pb.GenericResult(status=SUCCESS), metadata=metadata
        )

    def MountBatchedCheckExistence(self, request: Any) -> Any:
        missing = [h for h in request.sha256_hex_hashes if not self._has(h)]
        return self.pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    def MountPutFile(self, request: Any) -> Any:
        """Without data it asks whether the content is there (modal/volume.py:1432)."""
        if request.WhichOneof("data_oneof") == "data_blob_id":
            data = self.blob(request.data_blob_id)
        elif request.WhichOneof("data_oneof") == "data":
            data = request.data
        else:
            return self.pb.MountPutFileResponse(exists=self._has(request.sha256_hex))
        if self.state.put(data) != request.sha256_hex:
            raise Refused(400, "the content is not of this hash")
        return self.pb.MountPutFileResponse(exists=True)

    def MountGetOrCreate(self, request: Any) -> Any:
        """A mount that Modal itself publishes (its client's dependencies) is an empty one here."""
        for file in request.files:
            if not self._has(file.sha256_hex):
                raise Refused(404, f"no content of {file.filename}")
        ident = new_id("mo")
        self.state.mounts[ident] = list(request.files)
        return self.pb.MountGetOrCreateResponse(mount_id=ident)

    def BlobCreate(self, request: Any) -> Any:
        ident = new_id("bl")
        urls = self.pb.UploadUrlList(items=[f"{self.url}/blob/{ident}"])
        self.state.blobs[ident] = ""
        return self.pb.BlobCreateResponse(blob_ids=[ident], upload_urls=urls)

    def BlobGet(self, request: Any) -> Any:
        self.blob(request.blob_id)
        return self.pb.BlobGetResponse(download_url=f"{self.url}/blob/{request.blob_id}")

    def blob(self, ident: str) -> bytes:
        """The content of a blob that was uploaded."""
        if not (digest := self.state.blobs.get(ident)):
            raise Refused(404, f"no blob {ident}")
        return self.state.content(digest).read_bytes()

    # --- volumes, version 1

    def VolumeGetOrCreate(self, request: Any) -> Any:
        ident = self.state.volume_names.get(request.deployment_name)
        if ident is None:
            if not request.object_creation_type:
                raise Refused(404, f"no volume {request.deployment_name!r}")
            ident = self.state.volume_names[request.deployment_name] = new_id("vo")
            self.state.volumes[ident] = {}
        metadata = self.pb.VolumeMetadata(version=1, name=request.deployment_name)
        return self.pb.VolumeGetOrCreateResponse(volume_id=ident, version=1, metadata=metadata)

    def VolumePutFiles(self, request: Any) -> Any:
        volume = self.volume(request.volume_id)
        for file in request.files:
            volume[file.filename.lstrip("/")] = file.sha256_hex

    def VolumeGetFile2(self, request: Any) -> Any:
        digest = self.volume(request.volume_id).get(request.path.lstrip("/"))
        if digest is None:
            raise Refused(404, f"no file {request.path}")
        size = self.state.content(digest).stat().st_size
        urls = [f"{self.url}/content/{digest}/{n}" for n in range(-(-size // BLOCK))]
        return self.pb.VolumeGetFile2Response(get_urls=urls, size=size, start=0, len=size)

    def VolumeCommit(self, request: Any) -> Any:
        return self.pb.VolumeCommitResponse()

    def VolumeDelete(self, request: Any) -> Any:
        self.volume(request.volume_id)
        del self.state.volumes[request.volume_id]
        names = self.state.volume_names
        self.state.volume_names = {n: i for n, i in names.items() if i != request.volume_id}

    def volume(self, ident: str) -> dict[str, str]:
        """Its files. Raises Refused."""
        if ident not in self.state.volumes:
            raise Refused(404, f"no volume {ident}")
        return self.state.volumes[ident]

    # --- inside

    def app(self, ident: str) -> App:
        """One app. Raises Refused."""
        if ident not in self.state.apps:
            raise Refused(404, f"no app {ident}")
        return self.state.apps[ident]

    def lifecycle(self, app: App) -> Any:
        """As ``AppLifecycle``."""
        return self.pb.AppLifecycle(
            app_state=app.state, created_at=app.created_at, deployed_at=app.deployed_at,
            stopped_at=app.stopped_at, version=app.version,
        )  # fmt: skip

    def _functions(self, app: App) -> list[str]:
        return [f.id for f in self.state.functions.values() if f.app_id == app.id]

    def _has(self, digest: str) -> bool:
        return bool(HEX.fullmatch(digest)) and self.state.content(digest).exists()

    def _give_up(self) -> None:
        for app in self.state.apps.values():
            if app.state == INITIALIZING and self.state.now() - app.heartbeat_at > SILENT_S:
                app.state, app.stopped_at = STOPPED, self.state.now()

    def function(self, ident: str) -> Function:
        """One function. Raises Refused."""
        if ident not in self.state.functions:
            raise Refused(404, f"no function {ident}")
        return self.state.functions[ident]
