"""What pyproject.toml cannot say: a wheel carries the notebooks too, as tlg_lib/_notebooks; git holds them once."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tlg_lib*"]), "tlg_lib._notebooks"],
    package_dir={"tlg_lib._notebooks": "notebooks"},
)
