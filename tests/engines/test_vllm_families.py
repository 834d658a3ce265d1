"""Pictures and replies of each family on the real vLLM against the transformers engine, in processes of their own.

Where vLLM is installed (docs/engines.md): `pytest -m vllm`. Ten to twenty minutes on a CPU.
"""

from __future__ import annotations

import pytest

from tests.tools.vllm_pictures import EQUAL, LINEAR, REFUSED, cases, run_apart
from visrl_data.engines.vllm_pictures import TOLERANCE

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(("model_type", "max_pixels"), cases([*EQUAL]))
def test_the_model_sees_what_the_transformers_engine_shows(model_type, max_pixels):
    found = run_apart(model_type, max_pixels)
    assert not found.refusal
    assert found.same_tokens == found.prompts > 0
    assert found.gap <= TOLERANCE
    least = 0.3 if model_type in LINEAR else 0.9  # untrained models have near ties, in bfloat16 many
    assert found.same_replies >= least * found.prompts


@pytest.mark.parametrize(("model_type", "words"), REFUSED.items())
def test_a_family_that_can_not_be_made_equal_is_refused(model_type, words):
    assert words in run_apart(model_type, None).refusal
