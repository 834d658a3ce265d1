"""What the local pages have in common."""

import pytest

from visrl_data.core.errors import VisRLError
from visrl_data.evaluation import loopback


def test_a_port_that_is_taken_is_one_message():
    with loopback.listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(VisRLError, match=f"--port {port}: Address already in use. Choose another one"), \
                loopback.listen(port):  # fmt: skip
            pass
    with pytest.raises(VisRLError, match="--port 70000"), loopback.listen(70_000):
        pass
