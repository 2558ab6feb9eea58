from setuptools import find_packages, setup

setup(
    name="panoptic-toolkit",
    version="0.1.0",
    packages=find_packages("projects"),
    package_dir={"": "projects"},
    python_requires=">=3.10",
    entry_points={
        "segcore.projects": ["mask2former = mask2former.config:add_mask2former_config"],
    },
)
