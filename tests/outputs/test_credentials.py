from pathlib import Path

import pytest
from pydantic import SecretStr

from daemon.credentials import CREDENTIALS_FOLDER, Secrets, reveal
from daemon.errors import ConfigError


def test_a_credential_wins_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "TOKEN").write_text("from file\n")
    secrets = Secrets({CREDENTIALS_FOLDER: str(tmp_path), "TOKEN": "from env", "OTHER": "x"})

    assert reveal(SecretStr("${TOKEN}"), secrets, "key") == "from file"
    assert reveal(SecretStr("${OTHER}"), secrets, "key") == "x"
    assert {"TOKEN", "OTHER"} <= set(secrets)


def test_a_missing_secret_names_the_setting_and_both_places() -> None:
    with pytest.raises(
        ConfigError, match=r"outputs.x: \$\{NO\} is neither .*LoadCredential=NO:FILE"
    ):
        reveal(SecretStr("${NO}"), Secrets({}), "outputs.x")


def test_a_path_is_not_a_name_of_a_secret(tmp_path: Path) -> None:
    secrets = Secrets({CREDENTIALS_FOLDER: str(tmp_path)})

    assert reveal(SecretStr("${../x}"), secrets, "k") == "${../x}"
