"""What every request to the Hub has in common."""

from visrl_data.core.hub_access import hub_api
from visrl_data.core.versions import visrl_version


def test_requests_name_this_package_and_its_version():
    assert hub_api()._build_hf_headers()["user-agent"].startswith(f"visrl/{visrl_version()};")
