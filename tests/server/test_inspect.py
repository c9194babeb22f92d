import importlib.util
import json

import numpy as np
import pytest

from models.analysis import clusters as clusters_module
from models.analysis import findings as findings_module
from models.analysis import probes as probes_module
from models.checkpoint import load_model, save_checkpoint
from models.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def _little_work(monkeypatch):
    monkeypatch.setattr(clusters_module, "_LEAST_SAMPLES", 1)
    monkeypatch.setattr(findings_module, "_MAP_TOKENS", 40)
    monkeypatch.setattr(probes_module, "LEAST_QUESTIONS", 5)
    monkeypatch.setattr(probes_module, "MOST_QUESTIONS", 10)
    monkeypatch.setattr(probes_module, "_LIST_WORDS", 6)


@pytest.fixture
def slim_model(memory_model, tmp_path):
    model = load_model(memory_model)
    tokenizer = load_tokenizer(memory_model / "tokenizer.json")
    save_checkpoint(model, tmp_path / "slim", slim=True, tokenizer=tokenizer)
    return tmp_path / "slim"


def test_a_token_is_told_by_its_cells_and_neighbours_in_every_layer(tolbooth, memory_model):
    result = tolbooth("inspect", "token", " t", memory_model, "--top", 3, "--json").json
    assert {"token", "token_id", "training_count", "layers"} == result.keys()
    assert ('" t"', [0, 1]) == (result["token"], [layer["layer"] for layer in result["layers"]])
    for layer in result["layers"]:
        assert [3, 3] == [len(layer[name]) for name in ("cells", "nearest")]
        sizes = [abs(cell["coefficient"]) for cell in layer["cells"]]
        assert sorted(sizes, reverse=True) == sizes


def test_a_token_can_be_named_by_its_id_and_one_layer_asked_for(tolbooth, memory_model):
    result = tolbooth("inspect", "token", "#65", memory_model, "--layer", 1, "--json").json
    assert (65, [1]) == (result["token_id"], [layer["layer"] for layer in result["layers"]])


def test_people_get_a_tokens_cells(tolbooth, memory_model):
    result = tolbooth("inspect", "token", "a", memory_model, "--layer", 1, "--json").json
    outcome = tolbooth("inspect", "token", "a", memory_model, "--layer", 1)
    strongest = result["layers"][0]["cells"][0]
    assert f"{strongest['cell']} ({strongest['coefficient']:+.2f})" in outcome.out


def test_a_cell_is_told_by_its_readers_and_what_it_promotes(tolbooth, memory_model):
    result = tolbooth("inspect", "cell", memory_model, "--layer", 1, "--cell", 17, "--top", 4, "--json").json
    assert (1, 17) == (result["layer"], result["cell"])
    assert [4, 4, 4] == [len(result[name]) for name in ("read_by", "promotes", "suppresses")]
    assert result["promotes"][0]["score"] > result["suppresses"][0]["score"]
    assert result["read_by"][0]["token"] in tolbooth("inspect", "cell", memory_model, "--layer", 1, "--cell", 17).out


def test_clusters_cover_the_vocabulary(tolbooth, memory_model, tokenizer, text_file):
    pytest.importorskip("sklearn")
    command = ("inspect", "clusters", memory_model, "--layer", 0, "--clusters", 5, "--text", text_file)
    result = tolbooth(*command, "--json").json
    assert tokenizer.get_vocab_size() == sum(cluster["size"] for cluster in result["clusters"])
    assert sum(cluster["named"] for cluster in result["clusters"]) == result["named"]
    assert f"{result['named']} of {len(result['clusters'])} clusters are named" in tolbooth(*command).out


def test_layers_of_models_are_measured_side_by_side(tolbooth, memory_model, dense_model, text_file):
    command = ("inspect", "layers", memory_model, "--beside", dense_model, "--text", text_file)
    first, second = tolbooth(*command, "--json").json["importance"]
    assert [("memory", 2), ("ffn", 2)] == [(each["part"], len(each["without"])) for each in (first, second)]
    expected = tolbooth("eval", memory_model, "--memory", "computed", "--text", text_file, "--json").json["perplexity"]
    assert expected == pytest.approx(first["whole"], rel=1e-3)
    assert f"{first['without'][1]:.2f}" in tolbooth(*command).out


def test_a_slim_checkpoint_is_measured_with_its_table(tolbooth, memory_model, slim_model, text_file):
    tolbooth("export-tol", memory_model, "--encoding", "fp32", "--out", slim_model / "table")
    slim, full = (
        tolbooth("inspect", "layers", model, "--text", text_file, "--json").json["importance"][0]["without"]
        for model in (slim_model, memory_model)
    )
    assert np.allclose(full, slim, rtol=1e-4)


def test_alpha_is_swept_over_text_and_probes(tolbooth, memory_model, text_file):
    command = ("inspect", "alpha", memory_model, "--text", text_file)
    result = tolbooth(*command, "--json").json
    (sweep,) = result["alpha"]
    assert [1.0, 0.9, 0.8, 0.7, 0.6, 0.5] == [point["alpha"] for point in sweep["points"]]
    assert 0.25 == result["chance"]
    names = {probe["name"] for probe in result["probes"][0]["probes"]}
    assert names == sweep["points"][0]["accuracy"].keys()
    assert f"{sweep['points'][5]['perplexity']:.2f}" in tolbooth(*command).out


def test_a_report_is_a_page_and_json(tolbooth, memory_model, dense_model, text_file, tmp_path):
    pytest.importorskip("sklearn")
    out = tmp_path / "report.html"
    command = ("inspect", "report", memory_model, "--text", text_file, "--clusters", 4, "--beside", dense_model)
    result = tolbooth(*command, "--out", out, "--json").json
    assert (str(out), str(out.with_suffix(".json")), 8) == (result["page"], result["json"], result["clusters"])
    report = json.loads(out.with_suffix(".json").read_text())
    assert ["memory", "ffn"] == [each["part"] for each in report["importance"]]
    assert "</html>" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token", "Once upon"], "not one; name one of them, or an id as #17"),
        (["token", ""], "not one"),
        (["token", "#300"], "there is no token #300; ids of this model go from #0 to #"),
        (["token", "a", "--layer", "2"], "there is no layer 2; the model has layers 0 to 1"),
        (["cell", "--layer", "9", "--cell", "0"], "there is no layer 9"),
        (["cell", "--layer", "0", "--cell", "48"], "there is no cell 48; layer 0 has cells 0 to 47"),
        (["clusters", "--layer", "0", "--clusters", "5000"], "clusters is 5000"),
        (["clusters", "--layer", "0", "--text", "missing.txt"], "cannot read the text"),
        (["layers", "--text", "missing.txt"], "cannot read the text"),
        (["report", "--text", "missing.txt", "--out", "none/report.html"], "there is no directory none"),
        (["report", "--text", "missing.txt", "--out", "report.json"], "the JSON beside it is"),
    ],
)
@pytest.mark.usefixtures("demo")
def test_what_is_not_there_is_named(fails, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails("inspect", *arguments)


@pytest.mark.parametrize(
    "arguments", [["token", "a"], ["cell", "--layer", "0", "--cell", "0"], ["clusters", "--layer", "0"]]
)
def test_a_dense_model_has_no_cells_to_look_into(fails, dense_model, arguments):
    command, *options = arguments
    names = [options.pop(0), dense_model] if command == "token" else [dense_model]
    assert "is a dense model" in fails("inspect", command, *names, *options)


def test_a_slim_checkpoint_has_no_cells_to_look_into(fails, slim_model):
    assert "slim checkpoint, without its memory's FFNs" in fails("inspect", "token", "a", slim_model)


def test_a_model_beside_that_is_not_there_is_named_at_once(fails, memory_model, text_file):
    line = fails("inspect", "layers", memory_model, "--text", text_file, "--beside", "nowhere")
    assert "no model at nowhere" in line


def test_a_missing_extra_is_named_with_what_to_do(fails, memory_model, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for command in (["clusters", "--layer", "0"], ["report", "--text", text_file, "--out", tmp_path / "report.html"]):
        assert "pip install 'tolbooth[analysis]'" in fails("inspect", command[0], memory_model, *command[1:])


@pytest.mark.usefixtures("demo")
def test_the_demo_is_meant_where_no_model_is_named(tolbooth, memory_model):
    named = tolbooth("inspect", "token", "a", memory_model, "--json").out
    assert named == tolbooth("inspect", "token", "a", "--json").out
