"""Modal's calls on functions and their inputs, and those of its containers. Guarantee: see ``modal_state``.

Evidence: modal 1.6.4; ``fn`` = modal/_functions.py, ``pm`` = modal/parallel_map.py, ``io`` =
modal/_runtime/container_io_manager.py. Methods are named after their RPCs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from accel.sandbox.modal_billing import Container
from accel.sandbox.modal_calls import ObjectCalls
from accel.sandbox.modal_state import TERMINATED, Call, Function, Input, new_id
from accel.sandbox.wire import Refused

LONGEST_S = 55.0  # modal/_utils/function_utils.py, OUTPUTS_TIMEOUT: what its client asks for at most


class FunctionCalls(ObjectCalls):
    """What clients call about functions."""

    def FunctionPrecreate(self, request: Any) -> Any:
        """fn:346-368: gives the id that other functions may refer to."""
        ident = request.existing_function_id or new_id("fu")
        function = self.state.functions.get(ident)
        if function is None:
            function = Function(ident, request.app_id, request.function_name)
            function.settings = self.pb.AutoscalerSettings()
            self.state.functions[ident] = function
        function.handle = self.pb.FunctionHandleMetadata(
            function_name=request.function_name, function_type=request.function_type, app_id=request.app_id,
            function_schema=request.function_schema, definition_id=f"de-{ident[3:]}",
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )  # fmt: skip
        return self.pb.FunctionPrecreateResponse(function_id=ident, handle_metadata=function.handle)

    def FunctionCreate(self, request: Any) -> Any:
        """fn:581: the definition; with a list of GPUs the first is taken. Classes are not imitated."""
        function = self.function(request.existing_function_id)
        if request.HasField("function_data"):
            data = request.function_data
        else:
            given = request.function
            data = self.pb.FunctionData(
                module_name=given.module_name, function_name=given.function_name,
                implementation_name=given.implementation_name, timeout_secs=given.timeout_secs,
                autoscaler_settings=given.autoscaler_settings,
            )  # fmt: skip
            data.ranked_functions.add(rank=0, function=given)
        definition = data.ranked_functions[0].function
        if definition.is_class or definition.webhook_config.type or definition.is_server:
            raise Refused(501, "the sandbox imitates plain functions only")
        function.definition, function.data = definition, data
        function.settings.CopyFrom(definition.autoscaler_settings)
        return self.pb.FunctionCreateResponse(
            function_id=function.id, function=definition, function_data=data, handle_metadata=function.handle
        )

    def FunctionGet(self, request: Any) -> Any:
        app = self.state.deployed(request.app_name)
        ident = app.functions.get(request.object_tag) if app is not None else None
        if ident is None:
            raise Refused(404, f"no function {request.object_tag!r} in a deployed app {request.app_name!r}")
        return self._shown(self.function(ident), self.pb.FunctionGetResponse)

    def FunctionGetById(self, request: Any) -> Any:
        return self._shown(self.function(request.function_id), self.pb.FunctionGetByIdResponse)

    def FunctionGetCurrentStats(self, request: Any) -> Any:
        function = self.function(request.function_id)
        live = self.containers.live(function.id)
        return self.pb.FunctionStats(
            backlog=len(function.pending), num_total_tasks=len(live),
            num_running_inputs=sum(len(c.running) for c in live),
        )  # fmt: skip

    def FunctionUpdateSchedulingParams(self, request: Any) -> Any:
        function = self.function(request.function_id)
        function.settings.MergeFrom(request.settings)
        self.containers.scale(function)
        settings = function.settings
        return self.pb.FunctionUpdateSchedulingParamsResponse(current_settings=settings)

    # --- calls

    def FunctionMap(self, request: Any) -> Any:
        """fn:139-161, pm:295: a call, with its first inputs where they travel with it."""
        function = self.function(request.function_id)
        if self.app(function.app_id).stopped_at:
            raise Refused(404, "the app of this function was stopped")
        kind = request.function_call_invocation_type
        call = Call(new_id("fc"), function.id, kind, self.state.now())
        self.state.calls[call.id] = call
        return self.pb.FunctionMapResponse(
            function_call_id=call.id, function_call_jwt=call.id, sync_client_retries_enabled=True,
            retry_policy=function.definition.retry_policy, max_inputs_outstanding=1000,
            pipelined_inputs=self._enqueue(call, request.pipelined_inputs),
        )  # fmt: skip

    def FunctionPutInputs(self, request: Any) -> Any:
        call = self.call(request.function_call_id)
        return self.pb.FunctionPutInputsResponse(inputs=self._enqueue(call, request.inputs))

    def FunctionRetryInputs(self, request: Any) -> Any:
        """fn:271-278: the client tries again what failed or was lost."""
        call = self.call(request.function_call_jwt)
        jwts = []
        for item in request.inputs:
            given = self.state.inputs[item.input_jwt.partition(":")[0]]
            self.state.again(given)
            jwts.append(f"{given.id}:{given.attempt}")
        self.containers.scale(self.function(call.function_id))
        return self.pb.FunctionRetryInputsResponse(input_jwts=jwts)

    def FunctionFinishInputs(self, request: Any) -> Any:
        """All inputs of a map were sent."""

    async def FunctionGetOutputs(self, request: Any) -> Any:
        """fn:196-222, pm:466-500: waits up to ``timeout`` for outputs after ``last_entry_id``."""
        call = self.call(request.function_call_id)
        last = int(request.last_entry_id.partition("-")[0] or 0)
        loop = asyncio.get_running_loop()
        ends = loop.time() + min(LONGEST_S, max(0.0, request.timeout))
        while True:
            found = [(n, o) for n, o in call.outputs if n > last and self._wanted(request, o)]
            left_s = ends - loop.time()
            if found or left_s <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s), self.state.changed:
                    await self.state.changed.wait()
        unfinished = sum(i.result is None for i in call.inputs)
        if request.clear_on_success:
            gone = {id(o) for _, o in found if o.result.status == 1}
            call.outputs = [o for o in call.outputs if id(o[1]) not in gone]
        return self.pb.FunctionGetOutputsResponse(
            outputs=[o for _, o in found], idxs=[o.idx for _, o in found], num_unfinished_inputs=unfinished,
            last_entry_id=f"{max([n for n, _ in found], default=last)}-0",
        )  # fmt: skip

    def FunctionCallFetch(self, request: Any) -> Any:
        """modal/cli/function.py:1034: a function's inputs, newest first."""
        calls = [c for c in self.state.calls.values() if c.function_id == request.function_id]
        inputs = [i for c in calls for i in c.inputs]
        answer = self.pb.FunctionCallFetchResponse()
        inputs.sort(key=lambda i: i.enqueued_at, reverse=True)
        for given in inputs[: request.tail.count or None]:
            item = answer.function_call_inputs.add(function_call_id=given.call_id, status=self._status(given))
            item.enqueued_at.FromMicroseconds(round(given.enqueued_at * 1e6))
            if given.started_at:
                item.started_at.FromMicroseconds(round(given.started_at * 1e6))
                item.container_id, item.startup_time_seconds = given.task_id, given.cold_s
            if given.ended_at and given.started_at:
                item.execution_time_seconds = given.ended_at - given.started_at
        return answer

    def FunctionCallFromId(self, request: Any) -> Any:
        call = self.call(request.function_call_id)
        metadata = self.pb.FunctionCallHandleMetadata(
            function_id=call.function_id, app_id=self.function(call.function_id).app_id
        )
        return self.pb.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=len(call.inputs), metadata=metadata
        )

    async def FunctionCallCancel(self, request: Any) -> Any:
        """fn, _FunctionCall.cancel: its inputs end as TERMINATED; their containers too, if asked for."""
        call = self.call(request.function_call_id)
        function = self.function(call.function_id)
        result = self.pb.GenericResult(status=TERMINATED, exception="cancelled")
        for given in call.inputs:
            if given.result is not None:
                continue
            given.cancelled = True
            function.pending = [i for i in function.pending if i is not given]
            container = self.containers.all.get(given.task_id)
            if container is not None and request.terminate_containers:
                await self.containers.kill(container, "cancelled", TERMINATED)
            elif container is None:
                self.state.end(given, result)
        await self.state.notify()

    def TaskList(self, request: Any) -> Any:
        """modal/cli/container.py:56: the containers that exist."""
        answer = self.pb.TaskListResponse()
        for container in self.containers.live():
            app = self.state.apps[self.state.functions[container.function_id].app_id]
            if request.app_id in ("", app.id):
                answer.tasks.add(
                    task_id=container.id, app_id=app.id, app_description=app.description,
                    enqueued_at=container.began_at, started_at=container.ready_at,
                )  # fmt: skip
        return answer

    # --- inside

    def call(self, ident: str) -> Call:
        """One call. Raises Refused."""
        if ident not in self.state.calls:
            raise Refused(404, f"no function call {ident}")
        return self.state.calls[ident]

    def _enqueue(self, call: Call, items: Iterable[Any]) -> list[Any]:
        function, answers = self.function(call.function_id), []
        for item in items:
            given = Input(new_id("in"), call.id, item.idx, item.input, self.state.now())
            self.state.inputs[given.id] = given
            call.inputs.append(given)
            function.pending.append(given)
            answers.append(self.pb.FunctionPutInputsResponseItem(
                idx=item.idx, input_id=given.id, input_jwt=f"{given.id}:0"
            ))  # fmt: skip
        self.containers.scale(function)
        return answers

    def _wanted(self, request: Any, output: Any) -> bool:
        chosen = request.HasField("start_idx")
        return not chosen or bool(request.start_idx <= output.idx <= request.end_idx)

    @staticmethod
    def _status(given: Input) -> int:
        """enum FunctionCallInputStatus: pending, running, then GenericStatus and two."""
        if given.result is None:
            return 2 if given.started_at else 1
        return int(given.result.status) + 2

    def _shown(self, function: Function, kind: Any) -> Any:
        return kind(function_id=function.id, handle_metadata=function.handle, function=function.data)


class ContainerCalls(FunctionCalls):
    """What containers call. Each gets the container beside the request."""

    def ContainerHello(self, request: Any, container: Container) -> Any:
        """io: "currently a noop"."""

    async def ContainerHeartbeat(self, request: Any, container: Container) -> Any:
        """io:711-724: tells which of its inputs were cancelled."""
        cancelled = [i.id for i in container.running if i.cancelled]
        answer = self.pb.ContainerHeartbeatResponse()
        if cancelled:
            answer.cancel_input_event.input_ids.extend(cancelled)
        return answer

    async def FunctionGetInputs(self, request: Any, container: Container) -> Any:
        """io:866-937: the next input, or the kill switch."""
        given = await self.containers.next_input(container)
        if given is None:
            container.draining = True
            return self.pb.FunctionGetInputsResponse(inputs=[self.pb.FunctionGetInputsItem(kill_switch=True)])
        kind = self.call(given.call_id).kind
        return self.pb.FunctionGetInputsResponse(inputs=[self.pb.FunctionGetInputsItem(
            input_id=given.id, input=given.payload, function_call_id=given.call_id, retry_count=given.attempt,
            function_call_invocation_type=kind, function_map_idx=given.idx,
        )])  # fmt: skip

    async def FunctionPutOutputs(self, request: Any, container: Container) -> Any:
        """Outputs; one of an attempt that is over already is dropped."""
        for item in request.outputs:
            given = self.state.inputs.get(item.input_id)
            if given is not None and given.task_id == container.id and given.attempt == item.retry_count:
                await self.containers.finished(given, item.result, item.data_format)

    def TaskResult(self, request: Any, container: Container) -> Any:
        """What kept the container from starting."""
        container.result = request.result
