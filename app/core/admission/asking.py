"""Ask one admission policy: the order of Kubernetes' own validating admission, in the words of `core/decide.py`.

1. A request that does not fit `matchConstraints` and `matchResources` is none of its business.
2. The parameter objects are found; without any, `parameterNotFoundAction` decides: nothing is said, or a failure.
3. For each of them (once, with `params` null, where none are named): a condition of `matchConditions` that is false
   silences it, even when another fails; if none is false and one fails, that is a failure and nothing else is asked.
4. Every validation is asked. False: what the binding's `validationActions` say. Failed: a failure.
5. Every audit annotation is asked: a text is kept, null is not. Failed: a failure, whatever `validationActions` say.

A failure under `failurePolicy: Fail` is as a validation that is false, and denies where 2, 5 or the match failed; under
`Ignore` it is recorded as the word of a shadow, which Kubernetes would not do: nobody should be blind.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.core.admission.facts import Facts, MaybeObject
from app.core.admission.policy import Action, AdmissionPolicy, FailurePolicy, NotFound, Validation
from app.core.cel import EvaluationError, Program, RequestBindings, bind_params, facts_in, metered, one_line, truth
from app.core.index import MESSAGE_MAX_CHARS
from app.core.types import Clause, Effect, JsonObject, Mode, Outcome, Reason

RULE_ERROR = "rule_error: "
# As in Kubernetes: a longer message of an expression is not used, a longer value of an annotation is cut.
MESSAGE_EXPRESSION_MAX_BYTES = 5 * 1024
ANNOTATION_MAX_CHARS = 10 * 1024
# More than anyone reads, and every one of them is in the record.
NOTES_MAX = 64
VALIDATION_FAILURE = "validation.policy.admission.k8s.io/validation_failure"


@dataclass(slots=True)
class Heard:
    """What admission policies said about one request beside its decision: to the client, and for the audit."""

    warnings: list[str] = field(default_factory=list)
    audited: list[JsonObject] = field(default_factory=list)
    annotations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def notes(self) -> bool:
        """Whether there is anything."""
        return bool(self.warnings or self.audited or self.annotations)

    def bounded_warnings(self) -> tuple[str, ...]:
        """Give the warnings, at most `NOTES_MAX`; the last one says how many more there were."""
        if len(self.warnings) <= NOTES_MAX:
            return tuple(self.warnings)
        kept = self.warnings[: NOTES_MAX - 1]
        return (*kept, f"{len(self.warnings) - len(kept)} more validations failed")

    def all_annotations(self) -> dict[str, str]:
        """Give the audit annotations as Kubernetes writes them; values of one key are put together.

        Kubernetes keeps one failed validation, and this as many as `NOTES_MAX` in the list that its form has for them.
        """
        found = {key: ", ".join(values)[:ANNOTATION_MAX_CHARS] for key, values in sorted(self.annotations.items())}
        if self.audited:
            found[VALIDATION_FAILURE] = json.dumps(self.audited[:NOTES_MAX], ensure_ascii=False, separators=(",", ":"))
        return found


class Word(NamedTuple):
    """One validation that is false, or anything that failed with the text `failure`.

    `asked` is the expression, which stands at `path` of `spec` and was asked with `bindings`; a clause where the policy
    could not even be asked.
    """

    reason: Reason
    asked: Program | Clause
    path: str
    failure: str | None
    bindings: RequestBindings | None


def ask_admission(policy: AdmissionPolicy, bindings: RequestBindings, heard: Heard) -> list[Word]:
    """Ask one policy about a request: give its reasons, and add the rest to `heard`.

    Never raises for what an expression does.
    """
    asked = _Asked(policy, heard)
    facts = facts_in(bindings)
    if facts is not None:
        asked.about(facts, bindings)
    return asked.words


class _Place(NamedTuple):
    """What is asked: an expression, its name in reasons, and where it stands in `spec`."""

    name: str
    program: Program
    path: str
    position: int = 0


class _Asked:
    def __init__(self, policy: AdmissionPolicy, heard: Heard) -> None:
        self.policy = policy
        self.heard = heard
        self.words: list[Word] = []

    def about(self, facts: Facts, bindings: RequestBindings) -> None:
        """Steps 1 and 2, and the rest for each parameter object."""
        if facts.problem is not None:
            # INVARIANT: denies under `Ignore` as well, which is for faults of the policy, not for faults of the facts.
            self._cannot_be_asked("matchConstraints", facts.problem, Mode.ENFORCE)
            return
        fits = self.policy.match.fits(facts)
        if fits is None:
            text = f"the labels of the namespace `{facts.namespace}` are not known"
            self._cannot_be_asked("matchConstraints", text, self._hard)
        elif fits:
            if self.policy.metered:
                bindings = metered(bindings)
            for params in self._parameters(facts):
                self._evaluate(bind_params(bindings, params))

    @property
    def _hard(self) -> Mode:
        """What a failure that no action softens does: it denies, unless `failurePolicy` ignores it."""
        return Mode.ENFORCE if self.policy.failure_policy is FailurePolicy.FAIL else Mode.SHADOW

    def _parameters(self, facts: Facts) -> Iterator[MaybeObject]:
        """Step 2."""
        reference = self.policy.parameters
        if reference is None:
            yield None
            return
        try:
            found = reference.find(facts.namespace)
        except ValueError as error:
            self._cannot_be_asked("paramRef", str(error), self._hard)
            return
        if not found and reference.not_found is NotFound.DENY:
            text = "there are no parameters, and `parameterNotFoundAction` is `Deny`"
            self._cannot_be_asked("paramRef", text, self._hard)
        for one in found:
            yield one.value

    def _evaluate(self, bindings: RequestBindings) -> None:
        """Steps 3 to 5 with one parameter object."""
        if not self._conditions_hold(bindings):
            return
        for position, validation in enumerate(self.policy.validations):
            place = _Place(validation.name, validation.program, f"{validation.name}.expression", position)
            holds = truth(validation.program, bindings)
            if holds is False:
                self._act(place, bindings, _message(validation, bindings), failure=None)
            elif holds is not True:
                self._fail(place, bindings, str(holds))
        for annotation in self.policy.annotations:
            value = _text_or_null(annotation.program, bindings)
            if isinstance(value, EvaluationError):
                place = _Place(annotation.name, annotation.program, f"{annotation.name}.valueExpression")
                self._say(place, bindings, _failure(str(value)), failure=str(value), mode=self._hard)
            elif value:
                kept = self.heard.annotations.setdefault(f"{self.policy.policy}/{annotation.key}", [])
                if value not in kept:
                    kept.append(value[:ANNOTATION_MAX_CHARS])

    def _conditions_hold(self, bindings: RequestBindings) -> bool:
        """Step 3."""
        failures: list[tuple[_Place, str]] = []
        for position, condition in enumerate(self.policy.conditions):
            holds = truth(condition.program, bindings)
            if holds is False:
                return False
            if holds is not True:
                path = f"matchConditions[{position}].expression"
                failures.append((_Place(condition.name, condition.program, path), str(holds)))
        for place, text in failures:
            self._fail(place, bindings, text)
        return not failures

    def _act(self, place: _Place, bindings: RequestBindings, message: str, *, failure: str | None) -> None:
        """Do what the binding says about a validation that is false, or failed."""
        policy = self.policy
        for action in policy.actions:
            match action:
                case Action.DENY:
                    self._say(place, bindings, message, failure=failure, mode=Mode.ENFORCE)
                case Action.WARN:
                    self.heard.warnings.append(
                        f"Validation failed for ValidatingAdmissionPolicy '{policy.policy}' with binding "
                        f"'{policy.binding}': {message}"
                    )
                case Action.AUDIT:
                    self.heard.audited.append(
                        {
                            "message": message,
                            "policy": policy.policy,
                            "binding": policy.binding,
                            "expressionIndex": place.position,
                            "validationActions": [str(one) for one in policy.actions],
                        }
                    )

    def _fail(self, place: _Place, bindings: RequestBindings, text: str) -> None:
        """Treat the failure of a condition or a validation as `failurePolicy` says."""
        if self.policy.failure_policy is FailurePolicy.FAIL:
            self._act(place, bindings, _failure(text), failure=text)
        else:
            self._say(place, bindings, _failure(text), failure=text, mode=Mode.SHADOW)

    def _say(self, place: _Place, bindings: RequestBindings, message: str, *, failure: str | None, mode: Mode) -> None:
        reason = self._reason(place.name, message, mode)
        self.words.append(Word(reason, place.program, place.path, failure, bindings))

    def _cannot_be_asked(self, member: str, text: str, mode: Mode) -> None:
        clause = Clause(member, text, 0, 0, Outcome.ERROR, {})
        self.words.append(Word(self._reason(member, _failure(text), mode), clause, member, text, None))

    def _reason(self, rule: str, message: str, mode: Mode) -> Reason:
        return Reason(self.policy.policy, rule, Effect.DENY, message, mode, binding=self.policy.binding)


def _failure(text: str) -> str:
    return one_line(f"{RULE_ERROR}{text}", MESSAGE_MAX_CHARS)


def _text_or_null(program: Program, bindings: RequestBindings) -> str | EvaluationError | None:
    try:
        value: Any = program.evaluate(bindings)
    except EvaluationError as error:
        return error
    except Exception as error:  # noqa: BLE001 - as above
        return EvaluationError(f"`{type(error).__name__}`")
    if value is None:
        return None
    return value.strip() if isinstance(value, str) else EvaluationError("gave neither a text nor null")


def _message(validation: Validation, bindings: RequestBindings) -> str:
    """Give what the proposer reads: of the expression if it makes one line, else the text, else the condition."""
    text = ""
    if validation.message_expression is not None:
        try:
            made: Any = validation.message_expression.evaluate(bindings)
        except Exception:  # noqa: BLE001 - the validation is false without its explanation
            made = ""
        text = made.strip() if isinstance(made, str) else ""
        if "\n" in text or len(text.encode()) > MESSAGE_EXPRESSION_MAX_BYTES:
            text = ""
    text = text or (validation.message or "").strip() or f"failed expression: {validation.program.text.strip()}"
    return one_line(text, MESSAGE_MAX_CHARS)
