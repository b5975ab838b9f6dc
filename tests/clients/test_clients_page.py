"""The programs and commands of docs/clients.md, run as they stand there (but for the port, which may be taken)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.clients import elsewhere
from fixtures.loopback_cloud import Behaviour, LoopbackCloud
from fixtures.sensible_cloud import calling, saying
from fixtures.serving import Served

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("quiet")]
PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
# Whose programs are run by another environment than this one.
ENVIRONMENTS = {"instructor": "openai2", "LlamaIndex": "openai2", "CrewAI": "crewai"}
# What the cloud says to those that do not ask for plain text.
ANSWERS: dict[str, Behaviour] = {
    "smolagents": calling("final_answer", answer="Paris"),
    "DSPy": saying("[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"),
    "instructor": calling("Capital", name="Paris"),
}


def blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(title, program) for title, text in SECTIONS.items() for program in pattern.findall(text)]


def run(command: list[str | Path], folder: Path, **environ: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def at(served: Served, program: str) -> str:
    """Return the program with the address of this gateway."""
    assert "http://127.0.0.1:4100" in program
    return program.replace("http://127.0.0.1:4100", served.root)


@pytest.mark.parametrize(
    ("title", "program"), [pytest.param(*block, id=block[0]) for block in blocks("python")]
)
def test_every_python_program_gets_its_answer(
    title: str, program: str, cloud_served: Served, cloud: LoopbackCloud, tmp_path: Path
) -> None:
    if title in ANSWERS:
        cloud.enqueue(ANSWERS[title])
    python = elsewhere(ENVIRONMENTS[title]) if title in ENVIRONMENTS else Path(sys.executable)
    assert "Paris" in run([python, "-c", at(cloud_served, program)], tmp_path)
    assert cloud.requests


def test_the_node_program_gets_its_answer(cloud_served: Served, node_folder: Path) -> None:
    [(_, program)] = blocks("js")
    (node_folder / "page.mjs").write_text(at(cloud_served, program))
    assert "Paris" in run(["node", "page.mjs"], node_folder)


def test_the_llm_command_gets_its_answer(cloud_served: Served, tmp_path: Path) -> None:
    [(_, models)] = blocks("yaml")
    [(_, command)] = blocks("sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {"PATH": path, "OPENAI_API_KEY": "unused"}
    [where] = re.findall(r"`(dirname .*?)` prints", PAGE)
    folder = Path(run(["bash", "-c", where], tmp_path, **environ).strip())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(at(cloud_served, models))
    assert "Paris" in run(["bash", "-c", command], tmp_path, **environ)


@pytest.mark.parametrize("title", SECTIONS)
def test_every_section_but_that_on_errors_has_a_program(title: str) -> None:
    languages = [language for language in ("python", "js", "yaml") if title in dict(blocks(language))]
    assert bool(languages) == (title != "Errors")
