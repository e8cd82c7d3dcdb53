"""Health as ``application/health+json`` (draft-inadarei-api-health-check), a vendor-neutral format."""

from __future__ import annotations

from typing import Any, Final

from prefiq_db.health import Finding, Health, Status

HEALTH_TYPE: Final = "application/health+json"


def health_json(health: Health) -> dict[str, Any]:
    """Return the body of a health endpoint's reply; ``output`` has kinds and codes only."""
    body: dict[str, Any] = {"status": health.status.value}
    if health.reason:
        body["output"] = health.reason
    if health.findings:
        body["checks"] = {finding.name: [_check(finding)] for finding in health.findings}
    return body


def _check(finding: Finding) -> dict[str, Any]:
    is_database = finding.subject != finding.name
    check: dict[str, Any] = {"componentType": "datastore" if is_database else "component"}
    if is_database and finding.latency_seconds is not None:
        check |= {"observedValue": round(finding.latency_seconds * 1000, 3), "observedUnit": "ms"}
    check["status"] = finding.status.value
    if finding.status is not Status.PASS:
        check["output"] = finding.reason
    check["time"] = finding.found_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return check
