"""
The template of the route that a request will take, and the methods its path answers.

Starlette tells neither: its matched route stops at the first ``Mount``, and the ``Allow`` of its
405 names the methods of one route where several share a path.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Host, Match, Mount, NoMatchFound, Route
from starlette.types import Receive, Scope, Send

__all__ = ["PlainPaths", "allowed_methods", "nested_apps", "route_template"]


class PlainPaths(BaseRoute):
    """
    Stands before *routes* and finds at once those whose path is plain text.

    They stay where they are too: this only spares a request the routes that stand before its own,
    where none of those would have taken its path.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        """Look for plain paths among *routes*."""
        self._routes: dict[str, list[Route]] = {}
        before: list[Route] = []
        for route in routes:
            if type(route) is not Route:  # whatever it takes, it may be what follows
                break
            if not route.param_convertors and not any(_takes(one, route.path) for one in before):
                self._routes.setdefault(route.path, []).append(route)
            else:
                before.append(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return how one of the routes matches *scope*, as Starlette's router finds it."""
        found: tuple[Match, Scope] = Match.NONE, {}
        for route in self._routes.get(scope["path"], ()):
            match, child = route.matches(scope)
            if match is Match.FULL:
                return match, {**child, "route": route}
            if match is Match.PARTIAL and found[0] is Match.NONE:
                found = match, {**child, "route": route}
        return found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the route that matched."""
        await scope["route"].handle(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Leave the answer to the routes themselves."""
        raise NoMatchFound(name, path_params)


def _takes(route: Route, path: str) -> bool:
    return route.path_regex.match(path) is not None


def route_template(routes: Iterable[BaseRoute], scope: Scope) -> str | None:
    """Return the whole template, mounts included, None where no route matches."""
    partial: str | None = None
    for match, route, child in _matches(routes, scope):
        if match is Match.FULL:
            return _template(route, child)
        partial = partial or _template(route, child)
    return partial


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> frozenset[str]:
    """Return the methods of all routes of this path, none if one of them takes this method."""
    # A mount left its own root path in the scope; what was there before stands beside it.
    top = scope.get("app_root_path", scope.get("root_path", ""))
    return _allowed(routes, {**scope, "root_path": top})


def nested_apps(routes: Iterable[BaseRoute]) -> Iterator[Any]:
    """Return the apps mounted below, at any depth."""
    for route in _flat(routes):
        if isinstance(route, Mount | Host):
            yield route.app
            yield from nested_apps(route.routes)


def _allowed(routes: Iterable[BaseRoute], scope: Scope) -> frozenset[str]:
    methods: frozenset[str] = frozenset()
    for match, route, child in _matches(routes, scope):
        if isinstance(route, Mount | Host):
            return methods | _allowed(route.routes, child)
        if match is Match.FULL:
            return frozenset()
        methods |= frozenset(getattr(route, "methods", None) or ())
    return methods


def _matches(routes: Iterable[BaseRoute], scope: Scope) -> Iterator[tuple[Match, BaseRoute, Scope]]:
    for route in _flat(routes):
        try:
            match, child = route.matches(scope)
        except Exception:  # a user's convertor; the router will raise it where errors are told
            return
        if match is not Match.NONE:
            if isinstance(route, PlainPaths):
                yield match, child["route"], scope
            else:  # what is below a mount sees what the mount adds; nobody else does
                yield match, route, {**scope, **child} if isinstance(route, Mount | Host) else scope


def _flat(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Return *routes* with FastAPI's included routers replaced by what they include."""
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
        else:
            yield from (context.starlette_route or context for context in contexts())


def _template(route: BaseRoute, scope: Scope) -> str | None:
    if not isinstance(route, Mount | Host):
        return getattr(route, "path_format", None) or getattr(route, "path", None)
    prefix = route.path_format.removesuffix("/{path}") if isinstance(route, Mount) else ""
    if not route.routes:  # an app that is not Starlette's says nothing about its routes
        return prefix or None
    below = route_template(route.routes, scope)
    return None if below is None else prefix + below
