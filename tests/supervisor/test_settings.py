"""Settings: one list of defaults, three sources over it, and no silent typo."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

from esper_async.runtime.strict_model import ConfigurationError, known_keys, secret_keys
from esper_async.supervisor.settings import Settings, load_settings, parse_assignments
from esper_async.tezzeret.settings import ForgeSettings

LISTED = Path(__file__).parents[2] / "config" / "esper.toml"


def test_the_shipped_file_lists_every_setting_with_its_default() -> None:
    assert tomllib.loads(LISTED.read_text()) == Settings().model_dump(
        mode="json", exclude_none=True
    )


def test_every_setting_in_the_shipped_file_has_a_line_of_why() -> None:
    lines = LISTED.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith(("#", "[")):
            assert above.startswith("# "), f"no reason above {line!r}"


def test_flags_override_the_environment_and_that_the_file(tmp_path: Path) -> None:
    file = tmp_path / "esper.toml"
    file.write_text("[http]\nport = 1\nhost = 'from-file'\n[tolaria]\nnice = 1\n")
    environment = {"ESPER_HTTP__PORT": "2", "ESPER_TOLARIA__NICE": "2"}
    settings = load_settings(file, {"http.port": "3"}, environment)
    assert (settings.http.port, settings.tolaria.nice, settings.http.host) == (3, 2, "from-file")


def test_the_redis_url_comes_from_its_variable() -> None:
    url = "redis://localhost:6379/0"
    assert load_settings(environment={"ESPER_OONA__REDIS_URL": url}).oona.redis_url == url


def test_variables_that_are_no_settings_are_left_alone() -> None:
    assert load_settings(environment={"ESPER_API_TOKEN": "x"}) == Settings()


@pytest.mark.parametrize(
    ("text", "flags", "environment", "words"),
    [
        ("[oona]\nredis_ulr = ''", {}, {}, ("'oona.redis_ulr'", "'oona.redis_url'", "esper.toml")),
        ("[ona]\n", {}, {}, ("'ona'", "did you mean 'oona'", "esper.toml")),
        ("", {"http.prot": "1"}, {}, ("'http.prot'", "'http.port'", "in a flag")),
        ("", {}, {"ESPER_HTTP__PROT": "1"}, ("'http.port'", "in the environment")),
        ("", {"http.port": "many"}, {}, ("http.port = 'many'", "integer", "in a flag")),
        ("", {"http.port": "70000"}, {}, ("http.port = '70000'", "65535")),
        ("", {"oona.redis_url": "localhost"}, {}, ("oona.redis_url: ", "redis", "in a flag")),
        ("", {"http": "x"}, {}, ("http = 'x'",)),
    ],
)
def test_what_is_wrong_is_named_with_its_source(
    text: str,
    flags: dict[str, str],
    environment: dict[str, str],
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    file = tmp_path / "esper.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load_settings(file, flags, environment)
    for word in words:
        assert word in str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.toml.*\n.*cannot be read"):
        load_settings(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("[oona\n")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_settings(tmp_path / "bad.toml")


def test_an_assignment_without_a_value_is_refused() -> None:
    assert parse_assignments(["http.port=1", "oona.redis_url=redis://a?b=c"]) == {
        "http.port": "1",
        "oona.redis_url": "redis://a?b=c",
    }
    with pytest.raises(ConfigurationError, match="key=value"):
        parse_assignments(["http.port"])


def test_the_forge_gets_what_is_configured_and_its_own_defaults_otherwise() -> None:
    assert ForgeSettings.configured(**Settings().tezzeret.model_dump()) == ForgeSettings()
    settings = load_settings(None, {"tezzeret.workers": "3", "tezzeret.memory_mb": "512"}, {})
    configured = ForgeSettings.configured(**settings.tezzeret.model_dump())
    assert (configured.workers, configured.memory_bytes) == (3, 512 << 20)


SECRETS = (
    "oona.redis_url",
    "nissa.prometheus_url",
    "nissa.elasticsearch_url",
    "nissa.elasticsearch_api_key",
    "notify.webhook_url",
    "notify.slack_url",
    "notify.pagerduty_key",
    "notify.smtp_url",
)


@pytest.mark.parametrize("key", SECRETS)
def test_a_wrong_secret_is_named_and_not_shown(key: str) -> None:
    section, _, name = key.partition(".")
    for wrong in ("ftp://u:s3cr3t@h", ["s3cr3t"]):
        if name.endswith("_key") and isinstance(wrong, str):
            continue  # any text may be a key
        with pytest.raises(ConfigurationError, match=key.replace(".", r"\.")) as caught:
            load_settings(None, {section: {name: wrong}}, {})
        assert "s3cr3t" not in str(caught.value)


def test_a_secret_in_the_place_of_its_section_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="oona") as caught:
        load_settings(None, {"oona": "redis://u:s3cr3t@h"}, {})
    assert "s3cr3t" not in str(caught.value)


def test_settings_can_be_told_without_their_secrets() -> None:
    settings = load_settings(None, {"oona": {"redis_url": "redis://u:s3cr3t@h"}}, {})
    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize(
    "given", ["oona.redis_url=redis://u:s3cr3t@h/0", "notify.pagerduty_key=s3cr3t"]
)
def test_a_secret_on_the_command_line_is_refused_with_the_way_out(given: str) -> None:
    """Everybody on the machine can read a command line."""
    variable = "ESPER_" + given.partition("=")[0].upper().replace(".", "__")
    with pytest.raises(ConfigurationError, match=variable) as caught:
        parse_assignments([given])
    assert "s3cr3t" not in str(caught.value)


def test_whatever_reads_like_a_secret_is_one() -> None:
    suspects = {key for key in known_keys(Settings) if re.search("url|key|secret|passw|token", key)}
    assert suspects - set(SECRETS) == {"notify.page_url", "notify.pagerduty_url"}
    assert secret_keys(Settings) == set(SECRETS)
