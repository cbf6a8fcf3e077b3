"""Every check of the integrity of the stored data says how bad a finding is, and what to do about it."""

import pytest

from app.core.integrity import IntegrityCheck, Severity, advice, severity_of

# A job puts these right by itself, or when it is asked to.
MENDED = {IntegrityCheck.PARTITIONS, IntegrityCheck.BUDGETS, IntegrityCheck.SEARCH, IntegrityCheck.EXPIRED}
# Without these the log itself says something else than it was told.
THE_LOG = {
    IntegrityCheck.HEAD,
    IntegrityCheck.GAPS,
    IntegrityCheck.IDS,
    IntegrityCheck.RECEIPTS,
    IntegrityCheck.RECORDS,
    IntegrityCheck.TREE,
    IntegrityCheck.CHECKPOINTS,
    IntegrityCheck.POLICY_SETS,
}


@pytest.mark.parametrize("check", IntegrityCheck)
def test_each_has_its_severity_and_says_what_to_do(check):
    expected = Severity.MINOR if check in MENDED else Severity.CRITICAL if check in THE_LOG else Severity.MAJOR
    assert severity_of(check) is expected
    assert len(advice(check)) > 20
    assert advice(check)[0] in "`abcdefghijklmnopqrstuvwxyz"


def test_what_repairs_is_named():
    repairing = {check for check in IntegrityCheck if "--repair" in advice(check)}
    assert repairing == {
        IntegrityCheck.TRIGGERS,
        IntegrityCheck.PARTITIONS,
        IntegrityCheck.SEARCH,
        IntegrityCheck.EXPIRED,
    }
