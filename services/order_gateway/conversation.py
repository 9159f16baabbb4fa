"""Trading sessions: a stream of requests in, their answers out in the same order, with many under way at once.

Between the answers the user's orders are told as they change otherwise.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

from exchange.gateway.v1 import order_gateway_pb2, trading_session_pb2

from libs.batching import Batcher
from libs.bounded import put_bounded
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import access_rule
from libs.rpc.errors import status_of
from libs.rpc.server import current_caller
from services.order_gateway import desk
from services.order_gateway.amending import Amender
from services.order_gateway.desk import Desk
from services.order_gateway.items import Answer, Change, Item, Place
from services.order_gateway.sessions import Sessions
from services.order_gateway.streams import OrderStreams, Subscriber

Response = trading_session_pb2.TradingSessionResponse
_SessionAnswer = tuple[int, "asyncio.Future[Sequence[Answer]]"]

IN_FLIGHT_MAX = 1000
VERSIONS_KNOWN_MAX = 10_000
_UPDATES = access_rule(
    order_gateway_pb2.DESCRIPTOR.services_by_name["OrderGatewayService"].methods_by_name["StreamOrders"]
)
_LIMITED = frozenset({"place", "amend", "reduce"})


class Conversations:
    """Holds the sessions of this gateway's callers."""

    def __init__(
        self,
        *,
        taking: Desk,
        intake: Batcher[Item, Answer],
        amender: Amender,
        sessions: Sessions,
        streams: OrderStreams,
    ) -> None:
        self._desk = taking
        self._intake = intake
        self._amender = amender
        self._sessions = sessions
        self._streams = streams

    async def hold(self, requests: AsyncIterator[trading_session_pb2.TradingSessionRequest]) -> AsyncIterator[Response]:
        """One session from its first request to its last answer."""
        session = Session()

        async def read() -> None:
            try:
                async for request in requests:
                    amended = request.amend.order_id or request.amend.client_order_id
                    await session.turn_of(amended)
                    async with session.taking:
                        answer = await self._take(request, session)
                        session.note(answer, amended)
                        await session.under_way.put((request.request_id, answer))
            except asyncio.CancelledError:
                raise  # nobody listens any more, and where the queue is full nobody would make room
            except BaseException:
                await session.under_way.put(None)
                raise
            else:
                await session.under_way.put(None)

        reading = asyncio.create_task(read())
        try:
            while (waiting := await session.under_way.get()) is not None:
                response = await session.response_of(waiting)
                if response is not None:
                    yield response
            await reading
        finally:
            reading.cancel()
            session.leaving.close()
            if session.session_id:
                self._sessions.leave(session.session_id, list(session.unanswered))

    async def _take(
        self, request: trading_session_pb2.TradingSessionRequest, session: "Session"
    ) -> "asyncio.Future[Sequence[Answer]]":
        """Put one request of a session into the intake's queue; a bad one is answered in its place."""
        try:
            item: Item
            kind = request.WhichOneof("request")
            if kind in _LIMITED:
                await self._desk.admit_rate()
            if kind == "options":
                return await self._begin(request.options, session)
            if not session.begun:
                self._tell_updates(session, "")
            match kind:
                case "place":
                    item = await self._desk.place(request.place)
                    if session.session_id and item.order.user_id == session.user_id:
                        item = Place(replace(item.order, session=session.session_id))
                case "cancel":
                    item = desk.cancel(request.cancel)
                case "reduce":
                    item = desk.reduce(request.reduce)
                case "amend":
                    return asyncio.ensure_future(self._amend_in_session(desk.amend(request.amend)))
                case _:
                    raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="request"))
            return self._intake.enqueue((item,))
        except RefusedError as error:
            refused: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
            refused.set_result((error.refused,))
            return refused

    async def _begin(
        self, options: trading_session_pb2.SessionOptions, session: "Session"
    ) -> "asyncio.Future[Sequence[Answer]]":
        if session.begun:
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="options", rule="only as the first request"))
        user_id = current_caller().acting_for(options.user_id, field="options.user_id")
        if options.answers_only:
            session.begun = True
        else:
            self._tell_updates(session, user_id)
        if options.cancel_on_disconnect:
            session.user_id, session.session_id = user_id, await self._sessions.open(user_id)
        begun: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
        begun.set_result(())
        return begun

    def _tell_updates(self, session: "Session", user_id: str) -> None:
        """Begin a session: from now on its user's orders are told. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        caller = current_caller()
        user_id = user_id or ("" if caller.is_service else caller.user_id)
        if user_id and (caller.is_service or _UPDATES.scope in caller.scopes):
            session.hear(self._streams.listening(user_id))
        session.begun = True

    async def _amend_in_session(self, item: Change) -> Sequence[Answer]:
        return (await self._amender.amend(item),)


class Session:
    """One TradingSession call: what is under way, and whose orders end with it."""

    def __init__(self) -> None:
        self.under_way: asyncio.Queue[_SessionAnswer | Response | None] = asyncio.Queue(IN_FLIGHT_MAX)
        self.taking = asyncio.Lock()  # no update of an order comes between its request and the queue
        self.leaving = ExitStack()
        self.unanswered: set[asyncio.Future[Sequence[Answer]]] = set()
        self._amends: dict[asyncio.Future[Sequence[Answer]], str] = {}  # those of them, and the order as it was named
        self.begun = False
        self.user_id = ""
        self.session_id = ""
        self._told: dict[str, int] = {}  # the newest version of each order that was told

    def hear(self, listening: AbstractContextManager[Subscriber]) -> None:
        """Have updates told until `leaving` is closed."""
        passing = asyncio.create_task(self._pass_on(self.leaving.enter_context(listening)))
        self.leaving.callback(passing.cancel)

    async def _pass_on(self, updates: Subscriber) -> None:
        while True:
            order = await updates.next()
            response = Response(updates_lost=True) if order is None else Response(update=order)
            async with self.taking:
                await self.under_way.put(response)

    async def response_of(self, waiting: "_SessionAnswer | Response") -> Response | None:
        """What is told next; None for an update that tells nothing new."""
        is_update = isinstance(waiting, Response)
        response = waiting if isinstance(waiting, Response) else await self._answered(*waiting)
        order = response.update if is_update else response.order
        if order.order_id:
            told = self._told.get(order.order_id, 0)
            if is_update and order.version <= told:
                return None
            put_bounded(self._told, order.order_id, max(order.version, told), limit=VERSIONS_KNOWN_MAX)
        return response

    async def _answered(self, request_id: int, answers: "asyncio.Future[Sequence[Answer]]") -> Response:
        try:
            # Shielded: a session that is cut off leaves what it has under way to its end.
            found = await asyncio.shield(answers)
        except RefusedError as error:
            found = (error.refused,)
        if not found:
            return Response(request_id=request_id, session_id=self.session_id)
        answer = found[0]
        if isinstance(answer, Refused):
            return Response(request_id=request_id, error=status_of(answer))
        return Response(request_id=request_id, order=answer.order, fills=answer.fills, more_fills=answer.more_fills)

    async def turn_of(self, amended: str) -> None:
        """Wait until a request may be taken, so that none overtakes another; `amended` is the order it amends, if it does.

        The intake keeps the order of what it is given. An amend goes its own way, for it may need money first: it begins
        when all is answered but amends of other orders, and what is no amend begins when no amend is under way.
        """
        if amended:
            earlier = [answer for answer in self.unanswered if self._amends.get(answer, amended) == amended]
        else:
            earlier = list(self._amends)
        if earlier:
            await asyncio.wait(earlier)

    def note(self, answer: "asyncio.Future[Sequence[Answer]]", amended: str) -> None:
        """Remember what was taken, until it is answered."""
        self.unanswered.add(answer)
        answer.add_done_callback(self._forget)
        if amended:
            self._amends[answer] = amended
            answer.add_done_callback(self._amends.pop)

    def _forget(self, answer: "asyncio.Future[Sequence[Answer]]") -> None:
        self.unanswered.discard(answer)
        if not answer.cancelled():
            answer.exception()  # seen, also where nobody waits for it any more
