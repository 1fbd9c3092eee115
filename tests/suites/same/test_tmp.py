import os


def test_tmp_path(tmp_path):
    (tmp_path / "a").write_text("x")
    assert (tmp_path / "a").read_text() == "x"


def test_tmp_path_kept(tmp_path):
    (tmp_path / "a").write_text("x")
    assert 0


def test_factory(tmp_path_factory):
    assert tmp_path_factory.mktemp("made").name == "made0"


def test_monkeypatch(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("X_TEST", "1")
    assert os.getcwd() == str(tmp_path)


def test_environment():
    assert "X_TEST" not in os.environ
    assert os.environ["PYTEST_CURRENT_TEST"].endswith("test_environment (call)")


def test_cache(cache):
    cache.set("own/value", [1, 2])
    assert cache.get("own/value", None) == [1, 2]
