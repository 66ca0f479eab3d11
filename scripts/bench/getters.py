"""The getters of one round: started at once, watched until they have all, compared with the original."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from processes import Event, Host, Process, Usage
from tools import Getter, OwnWords, Round, Tool


@dataclass
class Getters:
    """What became of them so far."""

    tool: Tool
    round: Round
    stay: bool
    """Whether those who are done go on sharing until all are."""
    started: float = field(default_factory=time.monotonic)
    getters: dict[Process, Getter] = field(default_factory=dict)
    done_s: dict[Process, float] = field(default_factory=dict)
    """Seconds from the start of the first."""
    own: list[OwnWords] = field(default_factory=list)
    why: str | None = None
    """What the first one that failed said."""
    _said_s: dict[Process, float] = field(default_factory=dict)
    """When those who end by themselves said that they had all."""
    _failed: set[Process] = field(default_factory=set)

    def start(self, hosts: Sequence[Host]) -> None:
        """Starts one on each host."""
        first = len(self.getters)
        plans = [self.tool.getter(self.round, host, first + place, self.stay) for place, host in enumerate(hosts)]
        if not first:
            self.started = time.monotonic()
        for number, (host, plan) in enumerate(zip(hosts, plans), first):
            process = self.round.crew.start(f"getter{number}", plan.argv, host, measured=not plan.stays)
            self.getters[process] = plan

    def note(self, event: Event) -> None:
        """What an event says of a getter."""
        plan = self.getters.get(event.process)
        if plan is None or event.process in self.done_s or event.process in self._failed:
            return
        at = event.at - self.started
        if event.line is None:
            if plan.stays or event.process.code != 0:
                self._fail(event.process, event.process.complaint())
            else:
                self.done_s[event.process] = self._said_s.get(event.process, at)
        elif plan.done and re.search(plan.done, event.line):
            (self.done_s if plan.stays else self._said_s)[event.process] = at
            if (own := self.tool.own_words(event.line)) is not None:
                self.own.append(own)
        elif plan.failed and re.search(plan.failed, event.line):
            self._fail(event.process, event.line)

    @property
    def all_ended(self) -> bool:
        """Whether none can still finish."""
        return len(self.done_s) + len(self._failed) == len(self.getters)

    def usage(self) -> Usage:
        """The CPU of all of them, and the largest peak."""
        each = [process.usage() if process.code is not None else process.usage_so_far() for process in self.getters]
        return Usage(sum(usage.cpu_s for usage in each), max(usage.peak_kib for usage in each))

    def finish(self) -> dict[Process, float]:
        """Ends them, and gives the times of those whose copies are right."""
        self.round.crew.end(list(self.getters))
        right = {each: at for each, at in self.done_s.items() if self.round.data.is_same(self.getters[each].copy)}
        if len(right) < len(self.done_s):
            self.why = "a copy is not the same as the original"
        return right

    def _fail(self, process: Process, why: str) -> None:
        self._failed.add(process)
        self.why = self.why or f"{process.name}: {why}"
