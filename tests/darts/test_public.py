"""What `import darts` gives."""

from types import ModuleType

import darts
import snsoftmax


def test_every_public_name_is_there_and_no_module() -> None:
    assert sorted(set(darts.__all__)) == sorted(darts.__all__)
    for name in darts.__all__:
        assert not isinstance(getattr(darts, name), ModuleType), f"darts.{name} is a module"


def test_one_version() -> None:
    assert darts.__version__ == snsoftmax.__version__
