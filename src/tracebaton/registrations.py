"""
What an application registers: task types, routes, and who names the types of foreign messages.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from tracebaton.errors import ConfigurationError
from tracebaton.http.endpoints import BodyEndpoint
from tracebaton.http.service import Endpoint
from tracebaton.queue.foreign import ForeignRoute
from tracebaton.queue.retry import RetryPolicy
from tracebaton.tasks import Backoff, Handler, Registry, TaskType

__all__ = ["Registrations"]

HandlerT = TypeVar("HandlerT", bound=Handler)
#: Takes a request, and the model of its body where the route names one.
EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])


class Registrations:
    """The half of an application that is there before it runs: it needs no settings."""

    def __init__(self) -> None:
        self.registry: Registry = Registry()
        self.routes: list[tuple[str, Endpoint, Sequence[str]]] = []
        self.foreign_routes: list[ForeignRoute] = []
        self.sample_rates: dict[str, float] = {}

    def task(
        self,
        name: str,
        *,
        model: type[BaseModel],
        deadline: float | None = None,
        version: str = "1",
        max_age: float | None = None,
        group: Callable[[Any], str] | None = None,
        retry: Backoff | None = None,
        batch: int | None = None,
        batch_seconds: float = 0.2,
        sample_rate: float | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """
        Register the decorated function as the handler of the task type *name*.

        Args:
            model: Validates the data, in the API and again in the worker.
            deadline: Seconds it may run, None for no limit but SQS's 12 hours.
            version: Schema version of the messages it understands.
            max_age: Seconds a message may wait beyond its delay; older ones go to quarantine.
            group: On a FIFO queue, names a task's group by its data where the sender names none.
            retry: How long it waits after a failed attempt, such as a `RetryPolicy` of its own.
            batch: Gives the handler up to that many messages at once, as a `Batch`, and at most as
                many as run at once.
            batch_seconds: How long the first of them waits for others.
            sample_rate: Share of the traces to keep that start with such a task, with no request
                before it; ``TRACEBATON_SAMPLE_RATES`` wins.

        Raises:
            ConfigurationError: *name* is registered already, *batch* is below 1, the rate is none,
                or *retry* wants to say how often it is tried: that is the queue's to say.
        """
        self._sample([name], sample_rate)
        if batch is not None and batch < 1:
            raise ConfigurationError(f"The batch of {name!r} is {batch}: it has to be 1 or more")
        if isinstance(retry, RetryPolicy) and retry.max_attempts is not None:
            raise ConfigurationError(
                f"The retry policy of {name!r} has max_attempts, but the queue's maxReceiveCount"
                " says how often a message is tried: leave it out"
            )

        def register(handler: HandlerT) -> HandlerT:
            self.registry.add(
                TaskType(
                    name=name,
                    model=model,
                    handler=handler,
                    deadline=deadline,
                    version=version,
                    max_age=max_age,
                    group=group,
                    retry=retry,
                    batch=batch,
                    batch_seconds=batch_seconds,
                )
            )
            return handler

        return register

    def route(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        model: type[BaseModel] | None = None,
        sample_rate: float | None = None,
    ) -> Callable[[EndpointT], EndpointT]:
        """
        Serve *path* by the decorated function.

        It may return a response, a task (202 and its address), a pydantic model or plain JSON data.

        Args:
            methods: GET answers HEAD too.
            model: Validates the JSON body, which the function gets as its second argument, and
                stands in the OpenAPI document. Without one the function reads the body itself.
            sample_rate: Share of the traces to keep that start here, tasks included;
                ``TRACEBATON_SAMPLE_RATES`` wins.

        Raises:
            ConfigurationError: The rate is none.
        """
        answered = {method.upper() for method in methods}
        answered |= {"HEAD"} if "GET" in answered else set()
        self._sample([f"{method} {path}" for method in answered], sample_rate)

        def register(endpoint: EndpointT) -> EndpointT:
            served = endpoint if model is None else BodyEndpoint(endpoint, model)
            self.routes.append((path, served, tuple(methods)))
            return endpoint

        return register

    def _sample(self, heads: Iterable[str], rate: float | None) -> None:
        if rate is None:
            return
        if not 0 <= rate <= 1:
            raise ConfigurationError(f"sample_rate: {rate} is not between 0 and 1")
        self.sample_rates.update(dict.fromkeys(heads, rate))

    def foreign(self, route: ForeignRoute) -> ForeignRoute:
        """
        Let *route* name the task type of messages that no producer of ours wrote.

        A decorator, or a call with a lambda. It gets a `ForeignMessage`, unwrapped where SNS
        wrapped it, and returns a type, or None where the message is not for it; the message's JSON
        becomes the task's data. A message that no route takes goes to quarantine.
        """
        self.foreign_routes.append(route)
        return route
