"""The agent's API against its own description: random requests by schemathesis, whose authors know nothing of Weft. About
35 s. Without schemathesis (tools/test installs it) it is skipped."""
import json
import os
import shutil
import subprocess

import pytest
from lab import ROOT, run
from test_api_listening import agent, curl, spaces  # noqa: F401

SCHEMATHESIS = os.environ.get("WEFT_SCHEMATHESIS") or shutil.which("schemathesis") or str(ROOT / ".build" / "venv" / "bin" / "schemathesis")
pytestmark = pytest.mark.skipif(not os.access(SCHEMATHESIS, os.X_OK), reason="needs schemathesis: tools/test installs it")

# Of each answer: nothing that is not described, and so no 500. (501 and 503 are what some requests are to get.)
CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"


def test_random_requests_get_described_answers(spaces, tmp_path):  # noqa: F811
    node, _ = spaces
    with agent(spaces, tmp_path, api="requests-per-second: 0"):
        status, text = curl(node, "http://127.0.0.1:9091/openapi.json")
        assert status == 200
        (tmp_path / "openapi.json").write_text(text)
        outcome = run(
            "ip", "netns", "exec", node, SCHEMATHESIS, "run", tmp_path / "openapi.json", "--url", "http://127.0.0.1:9091",
            "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "-n", 25, "--seed", 1, "--generation-database", "none",
            "--continue-on-failure", cwd=tmp_path, timeout=300, check=False)
        assert outcome.returncode == 0, outcome.stdout[-6000:]
        # It has really asked: each operation.
        operations = sum(len([key for key in item if key != "parameters"]) for item in json.loads(text)["paths"].values())
        assert f"{operations} selected / {operations} total" in outcome.stdout, outcome.stdout[-2000:]
        assert curl(node, "http://127.0.0.1:9091/v1/status")[0] == 200
