"""What the local pages have in common."""

import pytest

from visrl_data.core.errors import UsageError, VisRLError
from visrl_data.evaluation import loopback


def test_a_port_that_is_taken_is_one_message():
    with loopback.listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(VisRLError, match=f"--port {port}: Address already in use. Choose another one"), \
                loopback.listen(port):  # fmt: skip
            pass


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_there_is_not(port):
    with pytest.raises(UsageError, match=f"--port {port}: expected 0 to 65535"), loopback.listen(port):
        pass
