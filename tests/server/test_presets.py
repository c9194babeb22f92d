from models.presets import PRESETS


def test_json_is_a_list_of_all_presets(tolbooth):
    assert list(PRESETS) == [entry["name"] for entry in tolbooth("presets", "--json").json]


def test_json_states_sizes_and_counts(tolbooth):
    config = PRESETS["250m-flex2"]
    (entry,) = [entry for entry in tolbooth("presets", "--json").json if entry["name"] == "250m-flex2"]
    expected = {
        "name": "250m-flex2",
        "kind": "flex-memoryllm",
        "hidden_size": 960,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": config.intermediate_size,
        "vocab_size": 128_256,
        "total_params": config.total_params,
        "active_params": config.active_params,
        "tol_bytes": config.tol_bytes,
    }
    assert expected == entry


def test_people_get_a_line_for_each(tolbooth):
    lines = tolbooth("presets").out.splitlines()
    assert list(PRESETS) == [line.split()[0] for line in lines[1:]]
