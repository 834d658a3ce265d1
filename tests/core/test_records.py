"""No table has a null in a list of fixed size: pyarrow before 26 writes one and can't read it (apache/arrow#35692)."""

import types
from typing import get_args, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.conftest import scripted_reply
from tests.helpers.dataset_runs import SHIPPED, make_run, photos
from visrl_data.calibration import verdicts
from visrl_data.calibration.verdicts import CaseVerdict
from visrl_data.core.records import CANDIDATE_SCHEMA, QUESTION_SCHEMA, Candidate, Question
from visrl_data.evaluation import predictions
from visrl_data.evaluation.predictions import Prediction
from visrl_data.publishing.dataset import build_dataset
from visrl_data.runs.dataset_schema import CONFIGS


def is_list(kind):
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def null_lists(values, name):
    """Name the columns, or their parts, that hold a null in a list of fixed size."""
    if pa.types.is_struct(values.type):
        for field in values.type:
            yield from null_lists(pc.struct_field(values, field.name), f"{name}.{field.name}")
    if pa.types.is_fixed_size_list(values.type) and values.null_count:
        yield name
    if is_list(values.type):
        yield from null_lists(pc.list_flatten(values), f"{name}[]")


def unreadable(file):
    table = pq.read_table(file)
    return [column for name in table.column_names for column in null_lists(table[name], f"{file.name}: {name}")]


def has_fixed_size(kind):
    return pa.types.is_fixed_size_list(kind) or (is_list(kind) and has_fixed_size(kind.value_type))


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        (Question, QUESTION_SCHEMA),
        (Candidate, CANDIDATE_SCHEMA),
        (Prediction, predictions.SCHEMA),
        (CaseVerdict, verdicts.SCHEMA),
    ],
)
def test_what_may_be_none_has_a_list_of_any_length(record, schema):
    hints = get_type_hints(record)
    may_be_none = {name for name in schema.names if types.NoneType in get_args(hints.get(name))}
    assert [name for name in may_be_none if has_fixed_size(schema.field(name).type)] == []


def test_published_columns_have_lists_of_any_length():
    fields = [(config, field) for config, columns in CONFIGS.items() for field in columns.arrow_schema]
    assert [(config, field.name) for config, field in fields if has_fixed_size(field.type)] == []


def test_predictions_and_verdicts_without_a_box(tmp_path):
    cache = predictions.open_cache(tmp_path / "eval", {}, 1, 1)
    predictions.write_chunk(cache, 0, [Prediction(0, "q", "g", focus_state="no_json")])
    (tmp_path / "c").mkdir()
    verdicts.write_chunk(tmp_path / "c", 0, [CaseVerdict(0, "q", "empty", "", "", None, None, None, "ok", "")])
    files = list(tmp_path.rglob("*.parquet"))
    assert len(files) == 2
    assert [column for file in files for column in unreadable(file)] == []
    assert predictions.read_predictions(cache)[0].box is None
    assert verdicts.read_verdicts(tmp_path / "c", 1)[0].window is None


def no_second_box(request, seed):
    """A model whose every third focus reply holds no box."""
    reply = scripted_reply(request, seed)
    return "nothing" if reply.startswith("[") and seed % 3 == 0 else reply


@pytest.mark.parametrize("options", [{"lazy": True}, {"box_critic": False, "diversity": "off"}, {}])
def test_runs_and_datasets(tmp_path, options):
    source = photos(tmp_path / "photos", **SHIPPED)
    source.write_text(source.read_text() + "{not json\n")
    run = make_run(tmp_path / "run", source, no_second_box, **options)
    files = [*run.path.rglob("*.parquet"), *build_dataset([run.path], tmp_path / "set").folder.rglob("*.parquet")]
    assert len(files) > 10
    assert [column for file in files for column in unreadable(file)] == []


def test_a_null_would_be_seen(tmp_path):
    box = pa.list_(pa.float64(), 4)
    columns = {"box": pa.array([None, [0, 0, 1, 1]], box), "boxes": pa.array([[None]] * 2, pa.list_(box))}
    table = pa.table(columns)
    assert [column for name in table.column_names for column in null_lists(table[name], name)] == ["box", "boxes[]"]
