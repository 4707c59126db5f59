"""Requests that schemathesis makes from the server's own description: none is answered by 500."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error

from tests.serve.served import Served

EXAMPLES = 40
"""Requests of one path."""


@pytest.mark.slow
def test_no_request_is_answered_by_a_fault(served: Served) -> None:
    schema = schemathesis.openapi.from_url(served.url + "/openapi.json")
    paths = []
    for result in schema.get_all_operations():
        operation = result.ok()
        paths.append(operation.path)

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        def check(case: schemathesis.Case) -> None:
            response = case.call(base_url=served.url, timeout=60)
            case.validate_response(response, checks=[not_a_server_error])

        check()
    assert len(paths) >= 8
    served.wait_until_idle(60)
