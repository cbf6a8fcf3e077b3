import pytest

from app.core import manifest
from app.errors import FirewallError, Kind

_DIGEST = "sha256:" + "0a" * 32


def _evaluation(**members):
    return {"suite": "s", "metric": "m", "base": 0.5, "target": 0.5, **members}


def _manifest(**members):
    return {"kind": "model", "target_digest": _DIGEST, **members}


@pytest.mark.parametrize(
    ("base", "target", "higher_is_better", "regressed", "delta"),
    [
        (0.5, 0.75, True, False, 0.25),
        (0.75, 0.5, True, True, -0.25),
        (0.5, 0.5, True, False, 0.0),
        (0.5, 0.75, False, True, 0.25),
        (0.75, 0.5, False, False, -0.25),
        (2**53 + 1, 2**53, True, True, 0.0),  # the doubles are equal, the numbers are not
        (1, 2, True, False, 1.0),
    ],
)
def test_regression(base, target, higher_is_better, regressed, delta):
    sent = _manifest(evaluations=[_evaluation(base=base, target=target, higher_is_better=higher_is_better)])
    (found,) = manifest.parse(sent)["evaluations"]
    assert (found["regressed"], found["delta"]) == (regressed, delta)
    assert type(found["delta"]) is float
    assert "delta" not in sent["evaluations"][0]


def test_defaults():
    found = manifest.parse(_manifest(evaluations=[_evaluation(target=0.25)]))
    assert found["artifacts"] == []
    assert found["evaluations"] == [
        {
            "suite": "s",
            "metric": "m",
            "base": 0.5,
            "target": 0.25,
            "higher_is_better": True,
            "safety": False,
            "delta": -0.25,
            "regressed": True,
        }
    ]
    assert manifest.parse(_manifest())["evaluations"] == []


def test_everything_that_may_be_sent():
    sent = _manifest(
        base_digest=_DIGEST,
        artifacts=[{"name": "w", "digest": _DIGEST}],
        evaluations=[_evaluation(safety=True), _evaluation(metric="n")],
    )
    found = manifest.parse(sent)
    assert found["artifacts"] == sent["artifacts"]
    assert found["base_digest"] == _DIGEST
    assert found["evaluations"][0]["safety"] is True


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        (1, ""),
        ({}, "/kind"),
        (_manifest(kind="weights"), "/kind"),
        (_manifest(kind=None), "/kind"),
        ({"kind": "model"}, "/target_digest"),
        (_manifest(target_digest=_DIGEST.upper()), "/target_digest"),
        (_manifest(target_digest=_DIGEST + "\n"), "/target_digest"),
        (_manifest(base_digest="sha256:00"), "/base_digest"),
        (_manifest(targetdigest=_DIGEST), "/targetdigest"),
        (_manifest(artifacts={}), "/artifacts"),
        (_manifest(artifacts=[1]), "/artifacts/0"),
        (_manifest(artifacts=[{"name": "a"}]), "/artifacts/0/digest"),
        (_manifest(artifacts=[{"digest": _DIGEST}]), "/artifacts/0/name"),
        (_manifest(artifacts=[{"name": "a", "digest": _DIGEST}] * 2), "/artifacts/1"),
        (_manifest(artifacts=[{"name": "a", "digest": _DIGEST, "size": 1}]), "/artifacts/0/size"),
        (_manifest(evaluations=[{}]), "/evaluations/0/suite"),
        (_manifest(evaluations=[_evaluation(), _evaluation()]), "/evaluations/1"),
        (_manifest(evaluations=[_evaluation(base="1")]), "/evaluations/0/base"),
        (_manifest(evaluations=[_evaluation(base=True)]), "/evaluations/0/base"),
        (_manifest(evaluations=[{"suite": "s", "metric": "m", "base": 1}]), "/evaluations/0/target"),
        (_manifest(evaluations=[_evaluation(safety=1)]), "/evaluations/0/safety"),
        (_manifest(evaluations=[_evaluation(higher_is_better="no")]), "/evaluations/0/higher_is_better"),
        (_manifest(evaluations=[_evaluation(delta=1)]), "/evaluations/0/delta"),
        (_manifest(evaluations=[_evaluation(base=-1.7e308, target=1.7e308)]), "/evaluations/0"),
    ],
)
def test_what_is_refused(sent, pointer):
    with pytest.raises(FirewallError) as caught:
        manifest.parse(sent)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/change/manifest" + pointer)


def test_did_you_mean():
    with pytest.raises(FirewallError) as caught:
        manifest.parse(_manifest(evaluation=[]))
    assert caught.value.fix == "did you mean `evaluations`?"
    with pytest.raises(FirewallError) as caught:
        manifest.parse(_manifest(**{"x" * 5000: 1}))
    assert caught.value.pointer == "/change/manifest"
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("known members are `kind`")
