"""Count the programs that JAX compiles in this process, and the time that takes."""

import threading
from typing import NamedTuple

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
"""The event of a program that is compiled or read from the cache of compiled programs."""
_READ = "/jax/compilation_cache/cache_retrieval_time_sec"


class Compilations(NamedTuple):
    """Programs that were needed so far."""

    programs: int = 0
    from_cache: int = 0
    """How many of them were read from the cache."""
    seconds: float = 0.0
    """Time for compiling and reading, over all threads."""

    def since(self, earlier: "Compilations") -> "Compilations":
        """Return the difference to an earlier count."""
        return Compilations(
            self.programs - earlier.programs,
            self.from_cache - earlier.from_cache,
            self.seconds - earlier.seconds,
        )

    def __str__(self) -> str:
        cached = f", {self.from_cache} of them from the cache" if self.from_cache else ""
        return f"compiled {self.programs} programs in {self.seconds:.0f} s{cached}"


class CompilationCounter:
    """Counts while it is entered as a context."""

    def __init__(self) -> None:
        self._by_thread: dict[int, Compilations] = {}

    def __enter__(self) -> "CompilationCounter":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        thread = threading.get_ident()  # the only one that changes this entry
        before = self._by_thread.get(thread, Compilations())
        if event == _COMPILED:
            after = before._replace(
                programs=before.programs + 1, seconds=before.seconds + duration_secs
            )
        elif event == _READ:
            after = before._replace(from_cache=before.from_cache + 1)
        else:
            return
        self._by_thread[thread] = after

    def count(self) -> Compilations:
        """Return the count over all threads."""
        counts = list(self._by_thread.values())
        return Compilations(
            sum(c.programs for c in counts),
            sum(c.from_cache for c in counts),
            sum(c.seconds for c in counts),
        )

    def count_in_thread(self) -> Compilations:
        """Return the count of the thread that calls this."""
        return self._by_thread.get(threading.get_ident(), Compilations())
