"""Whether there is a C++ compiler. Torch-free: the supervisor asks, too."""

import os
import shutil


def cxx_compiler() -> str | None:
    """Return the path of the compiler that Inductor would call; None if it is not there."""
    return shutil.which(os.environ.get("CXX") or "g++")


NO_COMPILER = (
    "there is no C++ compiler here, so kernels stay eager; install one (Debian: apt-get install "
    "g++), or name it in CXX"
)
