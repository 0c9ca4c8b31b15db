"""What `import darts` gives."""

import subprocess
import sys
from types import ModuleType

import darts
import snsoftmax

HELP = """
import sys
import darts.cli
try:
    darts.cli.main(["--help"])
finally:
    print(*sys.modules)
"""


def test_every_public_name_is_there_and_no_module() -> None:
    assert sorted(set(darts.__all__)) == sorted(darts.__all__)
    for name in darts.__all__:
        assert not isinstance(getattr(darts, name), ModuleType), f"darts.{name} is a module"


def test_one_version() -> None:
    assert darts.__version__ == snsoftmax.__version__


def test_the_command_line_loads_nothing_that_takes_long() -> None:
    """SciPy's solver and PyTorch's compiler are a third of what a command would wait for."""
    ran = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    loaded = {*ran.stdout.split()}
    assert "darts.commands.search" in loaded
    assert not {"scipy.optimize", "torch._dynamo"} & loaded
