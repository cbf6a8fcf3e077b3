"""Asking a Mutation Firewall from Python: `Firewall`, or `AsyncFirewall`, and what they answer.

Imports nothing of the service, and httpx only when a client is made.
"""

from app.client.answers import (
    Activation,
    ActiveSet,
    Batch,
    Budget,
    Clause,
    Decision,
    Effect,
    Health,
    Obligation,
    Page,
    PolicySet,
    Readiness,
    Reason,
)
from app.client.firewall import AsyncFirewall, Firewall
from app.client.problems import ProblemError, ProblemKind

__all__ = [
    "Activation",
    "ActiveSet",
    "AsyncFirewall",
    "Batch",
    "Budget",
    "Clause",
    "Decision",
    "Effect",
    "Firewall",
    "Health",
    "Obligation",
    "Page",
    "PolicySet",
    "ProblemError",
    "ProblemKind",
    "Readiness",
    "Reason",
]
