import pytest

from server.measuring.comparison import Arm, Comparison, compare


def logged(log, name, value=1.0):
    def run():
        log.append(name)
        return value

    return Arm(name=name, run=run)


def test_each_round_reverses_the_order_of_the_one_before():
    log = []
    compare("it", [logged(log, "a"), logged(log, "b")], unit="s", rounds=3, warm_up=False)
    assert ["a", "b", "b", "a", "a", "b"] == log


def test_the_warm_up_is_not_counted():
    log = []
    result = compare("it", [logged(log, "a")], unit="s", rounds=2)
    assert (3, 2) == (len(log), len(result.samples["a"]))


def test_an_arm_is_prepared_before_each_run():
    log = []
    arm = Arm(name="a", run=lambda: log.append("run") or 1.0, prepare=lambda: log.append("prepare"))
    compare("it", [arm], unit="s", rounds=2, warm_up=False)
    assert ["prepare", "run"] * 2 == log


def test_ratios_are_within_a_round():
    drifting = Comparison(title="it", unit="s", baseline="a", samples={"a": [1, 2, 10], "b": [2, 4, 20]})
    ratio = drifting.ratio("b")
    assert (2, 2, 2) == (ratio.median, ratio.low, ratio.high)


def test_two_arms_of_one_name_are_a_mistake():
    with pytest.raises(ValueError, match="same name"):
        compare("it", [logged([], "a"), logged([], "a")], unit="s")


def test_every_run_is_told():
    told = []
    arms = [logged([], "a"), logged([], "b")]
    compare("it", arms, unit="s", rounds=1, on_arm=lambda *said: told.append(said))
    assert [(0, 4, "b"), (1, 4, "a"), (2, 4, "a"), (3, 4, "b")] == told


def test_a_report_has_every_arm_and_condition():
    result = Comparison(title="It", unit="s", baseline="a", samples={"a": [1.0], "b": [3.0]}, conditions={"rows": 7})
    text = result.to_markdown()
    assert "rows: 7." in text
    assert "| b | 3 | 3 to 3 | 3.000 | 3.000 to 3.000 |" in text
    assert {"samples": [3.0]}.items() <= result.to_dict()["arms"]["b"].items()
