"""tools/bundle.py: what is packed; tools/bundle_main.py: what is unpacked, and where."""

import io
import sys
import zipfile

import pytest

from tools import bundle, bundle_main

HERE = "{}.{}".format(*sys.version_info)


def zip_of(**contents):
    """Bytes of a zip with these files; "__" stands for a slash."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name.replace("__", "/"), text)
    return file.getvalue()


@pytest.fixture
def archive(tmp_path):
    """A bundle of a package that this Python has, one that it has not, and the project."""
    path = tmp_path / "bundle.pyz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("__main__.py", "")
        file.writestr("python.txt", HERE)
        file.writestr("files/docs/page.md", "page")
        file.writestr("wheels/pytest-9.2.0-py3-none-any.whl", zip_of(pytest__here="no"))
        file.writestr(
            "wheels/not_there-1.0-py3-none-any.whl",
            zip_of(**{"not_there__module": "1", "not_there-1.0.data__scripts__program": "2",
                      "not_there-1.0.data__purelib__more__module": "3"}),
        )  # fmt: skip
        file.writestr(
            "wheels/panoptic_toolkit-0.1.0-cp310-abi3-linux_x86_64.whl", zip_of(segcore__module="4")
        )
    return path


def names_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_the_machine_has_is_not_unpacked(archive, tmp_path, capsys):
    folder = tmp_path / "folder"
    old = folder / "site/old/module"
    old.parent.mkdir(parents=True)
    old.touch()
    with zipfile.ZipFile(archive) as file:
        bundle_main.unpack(file, folder)
    assert names_below(folder) == {
        "docs/page.md", "site/not_there/module", "site/more/module", "site/segcore/module",
    }  # fmt: skip
    assert f"pytest 9.2.0: {pytest.__version__} is here" in capsys.readouterr().out


def test_another_python_is_refused():
    bundle_main.check_machine(HERE)
    with pytest.raises(bundle_main.BundleError, match=rf"is for Python 3\.1, this is {HERE}"):
        bundle_main.check_machine("3.1")


@pytest.mark.parametrize(
    ("version", "message"), [("2.9.1+cu130", "this is 2.9.1"), (None, "has no PyTorch")]
)
def test_pytorch_is_needed(version, message, monkeypatch):
    def find(name):
        if version is None:
            raise bundle_main.importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(bundle_main.importlib.metadata, "version", find)
    with pytest.raises(bundle_main.BundleError, match=message):
        bundle_main.check_machine(HERE)


def test_packs_all_that_gpu_check_reads(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a-1-py3-none-any.whl").write_bytes(zip_of(a="1"))
    bundle.pack(wheels, "3.12", tmp_path / "bundle.pyz")
    with zipfile.ZipFile(tmp_path / "bundle.pyz") as archive:
        names = set(archive.namelist())
        assert archive.read("python.txt") == b"3.12"
    needed = ("tools/gpu_check/__main__.py", "tests/operator_inputs.py", "benchmarks/gpu.py",
              "configs/quickstart/mask2former_R18.yaml", "tests/segcore/ops/test_knn.py",
              "pyproject.toml", "docs/operators.md")  # fmt: skip
    assert {"__main__.py", "wheels/a-1-py3-none-any.whl", *(f"files/{n}" for n in needed)} <= names
    assert not any("__pycache__" in name or name.endswith(".so") for name in names)


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py3-none-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp310-abi3-manylinux_2_17_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_17_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", False),
    ],
)
def test_wheels_for_another_python_are_refused(wheel, fits, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "pip", lambda *_: (tmp_path / wheel).touch())
    if fits:
        bundle.package_wheel("a", "3.12", tmp_path)
    else:
        with pytest.raises(bundle.BundleError, match=r"is not for Python 3\.12"):
            bundle.package_wheel("a", "3.12", tmp_path)


def test_a_large_bundle_is_refused(tmp_path, monkeypatch):
    for name in ("detectron2_wheel", "package_wheel", "compiled_libraries"):
        monkeypatch.setattr(bundle, name, lambda *_, **__: None)
    monkeypatch.setattr(bundle, "build_wheel", lambda folder, wheels, libraries: wheels.mkdir())
    monkeypatch.setattr(bundle, "LARGEST", 1000)
    with pytest.raises(bundle.BundleError, match="at most"):
        bundle.make_bundle("3.12", tmp_path / "dist")
    assert not list((tmp_path / "dist").iterdir())
