"""How the configuration of pip comes to a build."""

from deploy.checks import image_build


def test_the_environment_goes_before_files(monkeypatch):
    lines = ":env:.find-links='/mine'\nglobal.find-links='/theirs'\nglobal.index-url='file:///a\\nfile:///b'\n"
    monkeypatch.setattr(image_build, "_run", lambda _command: lines)
    assert {"find-links": "/mine", "index-url": "file:///a file:///b"} == image_build.pip_options()


def test_folders_and_indexes_of_this_machine_are_lent_to_a_build(tmp_path):
    for name in ("wheels", "index/simple"):
        (tmp_path / name).mkdir(parents=True)
    options = {
        "find-links": f"{tmp_path}/wheels {tmp_path}/none",
        "index-url": f"file://{tmp_path}/index/simple",
        "timeout": "180",
    }
    assert [tmp_path / "index", tmp_path / "wheels"] == image_build.local_paths(options)
