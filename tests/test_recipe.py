from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clearseek.config import Recipe
from clearseek.errors import OtherVersionError, UserError
from clearseek.recipe import RETIRED, find_recipe, load_recipe, parse_recipe, recipe_json, shipped_recipes
from tests.tiny import TINY, tiny

QUICKSTART = shipped_recipes()["quickstart"].read_text(encoding="utf-8")


def refused(raw: Any) -> str:
    """The message with which a recipe of these tables is refused."""
    with pytest.raises(UserError) as error:
        parse_recipe(raw, "it.toml")
    assert all(line.startswith("it.toml: ") for line in str(error.value).split("\n"))
    return str(error.value)


def changed(dotted: str, value: Any) -> dict[str, Any]:
    """TINY with one setting changed."""
    raw: dict[str, Any] = json.loads(json.dumps(TINY))
    *tables, key = dotted.split(".")
    table = raw
    for name in tables:
        table = table.setdefault(name, {})
    table[key] = value
    return raw


def any_model(parent: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions for shipped recipes with a parent: those of the ladder's base."""
    return load_recipe("ladder-base").model.model_dump(mode="json")


def test_every_shipped_recipe_resolves() -> None:
    recipes = {name: load_recipe(name, (), any_model) for name in shipped_recipes()}
    assert {"quickstart", "shakespeare", "v2-lite-16b", "v3-671b"} <= recipes.keys()
    assert all(recipe.name == name and recipe.description for name, recipe in recipes.items())


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny().train.steps = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trian", "train"),
        ("train.stepz", "steps"),
        ("model.n_routed_expert", "n_routed_experts"),
        ("optimizer.learningrate", "learning_rate"),
        ("data.sequence_lenght", "sequence_length"),
        ("model.rope_scaling.beta_fest", "beta_fast"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(key: str, meant: str) -> None:
    message = refused(changed(key, 1))
    assert f'unknown key {key} (did you mean "{meant}"?); valid keys here: ' in message


def test_an_unknown_key_in_a_list_of_tables_names_its_place() -> None:
    phases = [{"shape": "linear", "until": 0.5, "to": 1.0}, {"shap": "constant", "until": 1.0, "to": 1.0}]
    message = refused(changed("optimizer.schedule", phases))
    assert 'unknown key optimizer.schedule.1.shap (did you mean "shape"?); valid keys here: shape, to, until' in message
    assert "optimizer.schedule.1.shape is missing" in message


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.steps", "many", 'train.steps = "many": input should be a valid integer'),
        ("train.steps", 0, "train.steps = 0: input should be greater than 0"),
        ("train.steps", 5.0, "train.steps = 5.0: input should be a valid integer"),
        ("train.steps", True, "train.steps = true: input should be a valid integer"),
        ("train.steps", 10**30, "train.steps = 1000000"),
        ("train.precision", "fp4", "'auto', 'bf16', 'fp32' or 'fp8'"),
        ("optimizer.learning_rate", "0.1", 'optimizer.learning_rate = "0.1": input should be a valid number'),
        ("optimizer.learning_rate", True, "optimizer.learning_rate = true: input should be a valid number"),
        ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate = NaN"),
        ("optimizer.eps", float("inf"), "optimizer.eps = Infinity"),
        ("optimizer.betas", [0.9], "optimizer.betas"),
        ("optimizer.betas", 0.9, "optimizer.betas = 0.9: must be a list"),
        ("optimizer.betas", ["0.9", 0.9], "optimizer.betas.0"),
        ("model", 5, "model = 5: must be a table of settings"),
        ("model.tie_word_embeddings", "yes", 'model.tie_word_embeddings = "yes": input should be a valid boolean'),
        ("model.tie_word_embeddings", 1, "model.tie_word_embeddings = 1: input should be a valid boolean"),
        ("model.rope_theta", 1, "model.rope_theta = 1"),
        ("model.qk_rope_head_dim", 7, "qk_rope_head_dim = 7 is odd"),
        ("data.paths", "a.txt", 'data.paths = "a.txt": must be a list'),
        ("data.held_out_fraction", 1.0, "data.held_out_fraction = 1.0: input should be less than 1"),
        ("name", "../elsewhere", "name = "),
        ("name", "", "name = "),
    ],
)
def test_a_wrong_value_is_refused_with_key_and_value(key: str, value: Any, says: str) -> None:
    assert says in refused(changed(key, value))


def test_what_is_missing_is_named() -> None:
    assert refused({}).split("\n") == [
        "it.toml: name is missing",
        "it.toml: model is missing",
        "it.toml: train is missing",
    ]
    assert refused([]) == "it.toml: the recipe = []: must be a table of settings"


def test_every_mistake_is_named_at_once() -> None:
    raw = changed("train.batch_size", 8) | {"nme": "x"}
    raw["train"] |= {"micro_batch_size": 3}
    raw["model"] |= {"qk_rope_head_dim": 7, "num_experts_per_tok": 9, "n_group": 3, "topk_group": 5}
    raw["model"] |= {"scoring_func": "softmax", "num_nextn_predict_layers": 2, "first_k_dense_replace": 4}
    raw["optimizer"]["schedule"] = [{"shape": "constant", "until": 0.5, "to": 1.0}]
    message = refused(raw)
    for part in (
        'unknown key nme (did you mean "name"?)',
        "micro_batch_size = 3 does not divide batch_size = 8",
        "qk_rope_head_dim = 7 is odd",
        "num_experts_per_tok = 9 exceeds n_routed_experts = 8",
        "n_routed_experts = 8 is not divisible by n_group = 3",
        "topk_group = 5 must be below n_group = 3",
        'topk_method = "noaux_tc" with scoring_func = "softmax"',
        "only depths 0 and 1 are supported",
        "first_k_dense_replace = 4 exceeds num_hidden_layers = 2",
        "the phases' `until` must rise and end at 1.0, but they are [0.5]",
    ):
        assert part in message, part


def test_contradictions_between_tables_are_named_at_once() -> None:
    raw = changed("data.paths", [])
    raw["data"]["sequence_length"] = 65
    message = refused(raw)
    assert "data.sequence_length = 65 is above model.max_position_embeddings = 64" in message
    assert 'data.paths is empty, but data.source = "files" needs it' in message


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.steps=7", "train.steps", 7),
        (" train . steps = 1_000 ", "train.steps", 1000),
        ("train.precision=fp32", "train.precision", "fp32"),
        ('train.precision="fp32"', "train.precision", "fp32"),
        ("optimizer.learning_rate=1e-2", "optimizer.learning_rate", 0.01),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", (0.8, 0.9)),
        ("model.norm_topk_prob=false", "model.norm_topk_prob", False),
        ("data.tokenizer=a=b.json", "data.tokenizer", "a=b.json"),
        ("data.licence=a # b", "data.licence", "a # b"),
        ("description=two words", "description", "two words"),
        ("model.rope_scaling.factor=8", "model.rope_scaling.factor", 8.0),
        ("model.rope_scaling={factor = 4.0}", "model.rope_scaling.factor", 4.0),
    ],
)
def test_set_changes_one_setting(override: str, key: str, value: Any) -> None:
    recipe: Any = load_recipe("quickstart", [override])
    for part in key.split("."):
        recipe = getattr(recipe, part)
    assert recipe == value


def test_the_last_set_wins_and_a_table_can_be_replaced() -> None:
    assert load_recipe("quickstart", ["train.steps=1", "train.steps=2"]).train.steps == 2
    train = load_recipe("quickstart", ["train={steps = 3, batch_size = 2}"]).train
    assert (train.steps, train.batch_size, train.checkpoint_every) == (3, 2, 100)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.steps", "write it as table.key=value"),
        ("=5", "write it as table.key=value"),
        ("train.=5", "write it as table.key=value"),
        ("", "write it as table.key=value"),
        ("name.x=5", "name is a setting, not a table"),
        ("train.steps.x=5", "steps is a setting, not a table"),
        ("train.steps=", 'train.steps = "": input should be a valid integer'),
        ("train.steps=5\nother = 6", "train.steps = "),
        ("train.stepz=5", 'unknown key train.stepz (did you mean "steps"?)'),
        ("train=5", "train = 5: must be a table of settings"),
        ("train.steps=" + "[" * 5000, "train.steps = "),
        ("train.steps=" + "9" * 5000, "train.steps = "),
    ],
)
def test_a_bad_set_is_refused(override: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("quickstart", [override])
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "name is missing"),
        (b"name = ", "not valid TOML: Invalid value (at end of document)"),
        (b'name = "a"\nname = "b"', "not valid TOML: Cannot overwrite a value"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"a = " + b"[" * 100_000, "not valid TOML: "),
        (b"a = " + b"9" * 5000, "not valid TOML: "),
        (b"\0", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_by_name(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_recipe(file)
    assert str(error.value).startswith(f"{file}: ") and says in str(error.value)


def test_what_editors_on_windows_write_is_read(tmp_path: Path) -> None:
    file = tmp_path / "notepad.toml"
    file.write_bytes(b"\xef\xbb\xbf" + QUICKSTART.replace("\n", "\r\n").encode())
    assert load_recipe(file) == load_recipe("quickstart")


def test_what_set_got_wrong_is_blamed_on_it() -> None:
    with pytest.raises(UserError, match=r"^--set train.steps=many: train.steps = \"many\": "):
        load_recipe("quickstart", ["train.steps=many"])
    with pytest.raises(UserError, match=r"^--set steps=50: unknown key steps \(did you mean train.steps\?\)$"):
        load_recipe("quickstart", ["steps=50"])


def test_no_such_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'no recipe "quikstart" \(did you mean "quickstart"\?\); shipped: .*v3-671b'):
        load_recipe("quikstart")
    for name in ("gone.toml", "gone/recipe"):
        with pytest.raises(UserError, match=f"^{name}: cannot read the recipe: No such file or directory"):
            load_recipe(name)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match=r"^folder\.toml: a folder, not a recipe: give a .toml file"):
        load_recipe("folder.toml")
    for name in ("x" * 5000, "x" * 5000 + ".toml", "", "."):
        with pytest.raises(UserError):
            load_recipe(name)


def test_a_file_goes_before_a_shipped_recipe_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert find_recipe("quickstart") == shipped_recipes()["quickstart"]
    (tmp_path / "shakespeare").write_text(QUICKSTART, encoding="utf-8")
    assert load_recipe("shakespeare").name == "quickstart"


@pytest.mark.parametrize("name", shipped_recipes())
def test_json_is_canonical_and_reads_back(name: str) -> None:
    recipe = load_recipe(name, (), any_model)
    text = recipe_json(recipe)
    assert parse_recipe(json.loads(text), "recipe.json") == recipe
    assert text.isascii() and json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


def test_json_does_not_depend_on_the_order_of_keys() -> None:
    raw = tomllib.loads(QUICKSTART)
    turned = {table: dict(reversed(v.items())) if isinstance(v, dict) else v for table, v in reversed(raw.items())}
    assert list(turned) != list(raw)
    assert recipe_json(parse_recipe(turned, "a")) == recipe_json(parse_recipe(raw, "b"))


KEYS = st.sampled_from([*Recipe.model_fields, *TINY["model"], *TINY["train"], "rope_scaling", "schedule", "until", "x"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["files", "adamw", "auto"])
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS | st.text(), inner), max_leaves=20)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(JSON)
def test_any_json_is_a_recipe_or_a_user_error(raw: Any) -> None:
    try:
        parse_recipe(raw, "it.json")
    except UserError as error:
        assert str(error).startswith("it.json: ")


@FUZZ
@given(st.sampled_from(["name", "model", "data", "optimizer", "train"]), KEYS, JSON)
def test_any_value_anywhere_is_taken_or_a_user_error(table: str, key: str, value: Any) -> None:
    raw: dict[str, Any] = json.loads(json.dumps(TINY))
    if isinstance(raw[table], dict):
        raw[table][key] = value
    else:
        raw[table] = value
    try:
        recipe = parse_recipe(raw, "it.json")
    except UserError:
        return
    assert parse_recipe(json.loads(recipe_json(recipe)), "again") == recipe


@FUZZ
@given(st.text() | st.builds("{}.{}={}".format, st.sampled_from(["model", "train", "data"]), KEYS, st.text()))
@example("train.steps=\ud800")
@example("name=\ud800")
@example("data.paths=[1979-05-27T07:32:00Z]")
def test_any_set_is_taken_or_a_user_error(override: str) -> None:
    try:
        load_recipe("quickstart", [override])
    except UserError as error:
        assert str(error)


@FUZZ
@given(st.binary() | st.text(alphabet='[]{}="\n.,# \\atrinse019-:Z').map(str.encode))
def test_any_bytes_are_a_recipe_or_a_user_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "it.toml"
    file.write_bytes(content)
    with pytest.raises(UserError):
        load_recipe(file)


def test_dimensions_that_fp8_cannot_serve_are_named_together() -> None:
    raw = changed("train.precision", "fp8")
    raw["model"] |= {"moe_intermediate_size": 96, "intermediate_size": 200}
    message = refused(raw)
    assert "model.moe_intermediate_size = 96 is not a multiple of 128" in message
    assert "model.intermediate_size = 200 is not" in message
    raw["model"] |= {"moe_intermediate_size": 128, "intermediate_size": 256}
    assert parse_recipe(raw, "it.toml").train.precision == "fp8"


RETIRED_BUT_HARMLESS = {"gradient_format": "e4m3", "gradient_tile": "1x128", "accumulate": "fp32"}


def test_a_retired_setting_is_read_at_the_value_that_every_run_has_now() -> None:
    raw = changed("fp8", RETIRED_BUT_HARMLESS | {"scales": "float"})
    assert {f"fp8.{name}": value for name, value in RETIRED_BUT_HARMLESS.items()} == {
        name: retired.always for name, retired in RETIRED.items()
    }
    recipe = parse_recipe(raw, "it.toml")
    assert recipe == parse_recipe(changed("fp8", {"scales": "float"}), "it.toml")
    assert raw["fp8"].keys() > RETIRED_BUT_HARMLESS.keys() and "gradient_tile" not in recipe_json(recipe)


def test_a_retired_setting_at_another_value_is_refused_with_the_version_that_can_do_it() -> None:
    raw = changed("fp8", RETIRED_BUT_HARMLESS | {"gradient_tile": "128x128", "accumulate": ["x"]})
    raw["train"]["precision"] = "fp8"
    raw["model"] |= {"moe_intermediate_size": 128, "intermediate_size": 256}
    with pytest.raises(OtherVersionError, match=r"or use a version before 0\.2\.0"):
        parse_recipe(raw, "it.toml")
    raw["fp8"]["scale"] = 1
    assert refused(raw).split("\n") == [
        'it.toml: fp8.gradient_tile = "128x128": retired, and always "1x128" since ClearSeek 0.2.0: '
        "leave it out, or use a version before 0.2.0",
        'it.toml: fp8.accumulate = ["x"]: retired, and always "fp32" since ClearSeek 0.2.0: '
        "leave it out, or use a version before 0.2.0",
        'it.toml: unknown key fp8.scale (did you mean "scales"?); valid keys here: backend, scales',
    ]
    with pytest.raises(UserError, match=r"^--set fp8.accumulate=tensor-core: fp8.accumulate = .*retired"):
        load_recipe("gpu-2b", ["train.precision=fp8", "fp8.accumulate=tensor-core"])


def test_a_retired_setting_without_effect_is_left_out() -> None:
    """Settings of FP8 say nothing about a run in another precision, and nothing about the model that a run made."""
    raw = changed("fp8", RETIRED_BUT_HARMLESS | {"gradient_tile": "128x128", "accumulate": ["x"]})
    assert parse_recipe(raw, "it.toml") == parse_recipe(changed("fp8", {}), "it.toml")
    raw["train"]["precision"] = "fp8"
    raw["model"] |= {"moe_intermediate_size": 128, "intermediate_size": 256}
    assert parse_recipe(raw, "it.toml", record=True).train.precision == "fp8"


def test_other_texts_do_not_have_the_recipes_licence() -> None:
    assert load_recipe("shakespeare").data.licence == "LicenseRef-public-domain"
    assert load_recipe("shakespeare", ['data.paths=["mine.txt"]']).data.licence == "unknown"
    mine = load_recipe("shakespeare", ['data.paths=["mine.txt"]', "data.licence=CC-BY-4.0"])
    assert mine.data.licence == "CC-BY-4.0"


@pytest.mark.parametrize("setting", ['paths=["my.txt"]', 'exclude=["*.md"]', "text_field=body", "unusable=skip"])
def test_settings_that_python_stdlib_does_not_read(setting: str) -> None:
    """A text of one's own that is ignored in silence would train on Python's library instead."""
    message = r'^--set data\..*: data\..* is of no use to data\.source = "python-stdlib".*set data\.source$'
    with pytest.raises(UserError, match=message):
        load_recipe("quickstart", ["data." + setting])
    recorded = load_recipe("quickstart").model_dump(mode="json")
    name, _, value = setting.partition("=")
    recorded["data"][name] = ["x"] if value.startswith("[") else value
    parse_recipe(recorded, "recipe.json")  # what an earlier version recorded can be read


def test_a_contradiction_names_what_was_set() -> None:
    with pytest.raises(UserError, match=r"quickstart\.toml --set data\.sequence_length=9999: .*max_position_emb"):
        load_recipe("quickstart", ["data.sequence_length=9999"])
