"""Builds store_engine._C, the C++ core. All other metadata is in pyproject.toml."""

import os
import sys
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

ParallelCompile().install()  # a source file per core

setup(
    ext_modules=[
        Pybind11Extension(
            "store_engine._C",
            sources=sorted(glob("csrc/bindings/*.cpp")),
            include_dirs=["csrc"],
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            cxx_std=17,
            extra_compile_args=[
                *("-O3", "-Wall", "-Wextra"),
                # ours alone: a compiler newer than this release may warn of more
                *(["-Werror"] if "STORE_ENGINE_WERROR" in os.environ else []),
                # speed does not hang on where the linker puts a loop: measured, up to 5 %
                *(["-falign-functions=64", "-falign-loops=32"] if sys.platform == "linux" else []),
                # no fused multiply-add: scores are the same bits on every machine
                "-ffp-contract=off",
                "-Wno-psabi",  # vector types never cross a call that is not inlined
                "-pthread",
            ],
            extra_link_args=["-pthread", "-ldl"],
        )
    ]
)
