"""What every test may use: skipping by capability, and an environment in which the runs that tests start are plain ones."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.capabilities import pytest_configure, pytest_runtest_setup

__all__ = ["layer_store", "pytest_configure", "pytest_runtest_setup"]

# tox tells everything below it where it is: pytest then shares one cache directory among all runs. Where variables
# say that this is continuous integration (tox's do), hypothesis keeps no database, pytest repeats whole errors in its summary, and we
# add to what GitHub shows and call the commit what they call it.
_SERVICES = (
    "BUILDKITE",
    "BUILD_NUMBER",
    "CI",
    "CIRCLECI",
    "CIRRUS_CI",
    "CODEBUILD_BUILD_ID",
    "GIT_COMMIT",
    "TEAMCITY_VERSION",
    "TF_BUILD",
)
for name in [
    name for name in os.environ if name in _SERVICES or name.startswith(("TOX_", "__TOX_", "CI_", "GITHUB_", "GITLAB_"))
]:
    del os.environ[name]

# Started in the background of a script, we ignore Ctrl-C, and so would every run that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def layer_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs that tests start keep their layers where pytest removes them, unless they say otherwise."""
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    yield
    if before is None:
        del os.environ["XDG_DATA_HOME"]
    else:
        os.environ["XDG_DATA_HOME"] = before
