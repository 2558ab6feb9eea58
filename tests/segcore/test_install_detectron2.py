"""Installation of Detectron2, without network but for one test that has to be asked for."""

import os
import subprocess
import zipfile

import pytest

from segcore import install_detectron2 as tool


@pytest.fixture
def installations(monkeypatch):
    """Ways of installing that were tried, nothing being installed."""
    tried = []
    monkeypatch.setattr(tool, "install_from_github", lambda: tried.append("github"))
    monkeypatch.setattr(tool, "install_from_index", lambda: tried.append("index"))
    return tried


def versions(monkeypatch, *answers):
    answers = iter(answers)
    monkeypatch.setattr(tool, "installed_version", lambda: next(answers))


def test_importable_installation_is_kept(monkeypatch, installations, capsys):
    versions(monkeypatch, "0.6 in somewhere")
    tool.install()
    assert installations == []
    assert "0.6 in somewhere is importable and kept" in capsys.readouterr().out


@pytest.mark.parametrize(("reachable", "way"), [(True, "github"), (False, "index")])
def test_index_is_used_where_github_is_out_of_reach(monkeypatch, installations, reachable, way):
    versions(monkeypatch, None, "0.6")
    monkeypatch.setattr(tool, "github_is_reachable", lambda: reachable)
    tool.install()
    assert installations == [way]


def test_index_is_used_where_the_official_one_does_not_compile(monkeypatch, installations):
    def fail():
        raise tool.InstallError("pip install failed")

    versions(monkeypatch, None, "0.6")
    monkeypatch.setattr(tool, "github_is_reachable", lambda: True)
    monkeypatch.setattr(tool, "install_from_github", fail)
    tool.install()
    assert installations == ["index"]


def test_installation_that_cannot_be_imported_is_an_error(monkeypatch, installations):
    versions(monkeypatch, None, None)
    with pytest.raises(tool.InstallError, match="cannot be imported"):
        tool.install("index")


def test_broken_installation_does_not_count(monkeypatch, tmp_path, capsys):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert tool.installed_version() is None
    assert "half installed" in capsys.readouterr().out


def test_unresponsive_github_is_given_up(monkeypatch):
    limits = []

    def hang(command, *, timeout, **_):
        limits.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(tool.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(tool.subprocess, "run", hang)
    assert not tool.github_is_reachable()
    assert limits == [20]


def test_other_contents_are_refused(tmp_path):
    sdist = tmp_path / tool.SDIST
    sdist.write_bytes(b"something else")
    with pytest.raises(tool.InstallError, match=f"{tool.SDIST}: refused.*{tool.SDIST_SHA256}"):
        tool.check_sha256(sdist)


@pytest.mark.parametrize(("text", "found"), [("x = np.bool\n", 1), ("np.bool " * 3, 3)])
def test_edit_that_does_not_match_names_the_file(tmp_path, text, found):
    (tmp_path / "masks.py").write_text(text)
    edit = tool.Edit("masks.py", "np.bool", "bool", "NumPy removed it", count=2)
    with pytest.raises(tool.InstallError, match=rf"masks\.py: expected 2 .* found {found}"):
        tool.apply_edits(tmp_path, (edit,))
    assert (tmp_path / "masks.py").read_text() == text


def test_edit_of_a_missing_file_is_an_error(tmp_path):
    edit = tool.Edit("gone.py", "old", "new", "a reason")
    with pytest.raises(tool.InstallError, match=r"gone\.py: expected 1 .* found 0"):
        tool.apply_edits(tmp_path, (edit,))


def test_edits_are_applied(tmp_path):
    (tmp_path / "masks.py").write_text("a.astype(np.bool), b.astype(np.bool)")
    tool.apply_edits(tmp_path, (tool.Edit("masks.py", "np.bool", "bool", "a reason", 2),))
    assert (tmp_path / "masks.py").read_text() == "a.astype(bool), b.astype(bool)"


def test_missing_extension_says_so_on_use():
    namespace = {}
    stand_in = tool.STAND_IN.partition("\n")[2]
    exec(stand_in, namespace)
    with pytest.raises(ImportError, match=r"_C\.deform_conv_forward.*no C\+\+ extension"):
        namespace["missing_extension"].deform_conv_forward(1, 2)
    assert not hasattr(namespace["missing_extension"], "__wrapped__")


def test_error_is_shown_without_traceback(monkeypatch):
    monkeypatch.setattr(tool.sys, "argv", ["install_detectron2.py"])
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="PyTorch is not installed in this Python"):
        tool.main()


@pytest.mark.parametrize("importable", [True, False])
def test_panopticapi_is_installed_without_its_requirements(monkeypatch, importable):
    commands = []
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: importable or None)
    monkeypatch.setattr(tool, "pip", lambda *arguments: commands.append(arguments))
    tool.install_panopticapi()
    assert commands == ([] if importable else [("install", "--no-deps", "panopticapi-lite")])


@pytest.mark.skipif(
    "SEGCORE_TEST_NETWORK" not in os.environ, reason="SEGCORE_TEST_NETWORK is not set"
)
def test_wheel_of_the_sdist(tmp_path):
    wheel = tool.build_wheel(tool.download_sdist(tmp_path), tmp_path)
    assert wheel.name == "detectron2-0.6+noext-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "detectron2",
        "detectron2-0.6+noext.dist-info",
    }
    configs = "detectron2/model_zoo/configs"
    assert f"{configs}/COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml" in names
    assert f"{configs}/common/train.py" in names
    assert "detectron2/projects/point_rend/point_features.py" in names
    assert "detectron2/projects/deeplab/config.py" in names
