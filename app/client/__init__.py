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
    Release,
)
from app.client.firewall import AsyncFirewall, Firewall
from app.client.keys import ApiKey, KeyPage, NewApiKey
from app.client.problems import ProblemError, ProblemKind
from app.client.switches import Switch

__all__ = [
    "Activation",
    "ActiveSet",
    "ApiKey",
    "AsyncFirewall",
    "Batch",
    "Budget",
    "Clause",
    "Decision",
    "Effect",
    "Firewall",
    "Health",
    "KeyPage",
    "NewApiKey",
    "Obligation",
    "Page",
    "PolicySet",
    "ProblemError",
    "ProblemKind",
    "Readiness",
    "Reason",
    "Release",
    "Switch",
]
