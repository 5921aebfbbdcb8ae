"""The images as their Dockerfile tells of them, and what it would put into them, without a container."""

import re
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import PurePosixPath

from dockerfile_parse import DockerfileParser
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY, missing
from tests.k8s.conftest import K8S

IMAGES = K8S / "images"
DOCKERFILE = IMAGES / "Dockerfile"
LIBRARY = "/usr/local/lib/eagleeye"


def load_lock():
    """The script lock.py as a module."""
    spec = util.spec_from_file_location("k8s_images_lock", IMAGES / "lock.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def stages():
    """Name of a stage -> (its base, its instructions as (word, rest))."""
    parser = DockerfileParser(path=str(IMAGES), fileobj=None)
    found = {}
    for each in parser.structure:
        word, value = each["instruction"], each["value"]
        if word == "FROM":
            base, _, name = value.partition(" AS ")
            found[name] = current = (base, [])
        elif word != "COMMENT":
            current[1].append((word, value))
    return found


def of(stage, word):
    """What an instruction says, each time that a stage has it."""
    return [value for name, value in stages()[stage][1] if name == word]


def commands(stage):
    """Each command of a stage's RUN instructions, options of RUN apart."""
    return [part.strip() for value in of(stage, "RUN") for part in value.split(" && ")]


def ignored():
    """(is it let in again, pattern) for each line of .dockerignore."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        yield line.startswith("!"), re.compile(pattern)


def is_sent(path, rules):
    """Whether Docker sends a file: the last pattern that matches it, or a folder above it, decides."""
    above = [str(path), *map(str, PurePosixPath(path).parents)]
    sent = True
    for is_let_in, pattern in rules:
        if any(pattern.fullmatch(each) for each in above):
            sent = is_let_in
    return sent


def context():
    """The files that a build would get from a fresh clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    rules = list(ignored())
    return [path for path in listed if is_sent(path, rules) and (REPOSITORY / path).is_file()]


def build_wheel(folder):
    """Our wheel, made of the build context by the Dockerfile's own command."""
    source = folder / "source"
    for path in context():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, source / path)
    (command,) = (each for each in commands("wheel") if " pip wheel " in each)
    words = command.replace("/wheels", str(folder / "wheels")).split()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([sys.executable, *words[1:], "--quiet"], cwd=source, env=environment, check=True)
    (wheel,) = (folder / "wheels").iterdir()
    return wheel


def install(folder, wheel, packages, *, copied=("opencv-python-headless",)):
    """What lies in an image's library folder: our wheel, and links to the packages, or copies (OpenCV insists)."""
    shutil.unpack_archive(wheel, folder, "zip")
    for name in packages:
        for path in metadata.distribution(name).files:
            if ".." in path.parts or not path.locate().is_file():
                continue  # commands, which pip puts beside the library; and bytecode that nobody has made
            if name in copied:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path.locate(), folder / path)  # bytecode is for the time of its source
            elif not (folder / path.parts[0]).exists():
                (folder / path.parts[0]).symlink_to(metadata.distribution(name).locate_file(path.parts[0]))
    launcher = folder.parent / f"{folder.name}.eagleeye"
    launcher.write_text((IMAGES / "eagleeye").read_text().replace(LIBRARY, str(folder)))
    return launcher


def trim(folder, stage):
    """Remove what a stage removes, by its own commands."""
    if shutil.which("strip") is None:
        missing("strip (Debian's package binutils)")
    chosen = [each for each in commands(stage) if each.startswith(("rm ", "find "))]
    assert chosen
    assert not any(path.is_symlink() for path in folder.iterdir())  # they would lead out of it
    subprocess.run(["bash", "-euc", "\n".join(chosen)], cwd=folder, check=True)


def run(launcher, *arguments):
    """Run `eagleeye` as in the image: by an interpreter that sees nothing but that folder."""
    command = [sys.executable, "-I", "-S", str(launcher), *arguments]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, env={"HOME": "/nonexistent"})


def python(launcher, code):
    """Run Python code where `eagleeye` would run."""
    library = str(launcher).removesuffix(".eagleeye")
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {library!r}); {code}"]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, env={"HOME": "/nonexistent"})


def locked(name):
    """Package -> version, as a .lock file has them."""
    found = re.findall(
        r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", (IMAGES / f"{name}.lock").read_text(), re.MULTILINE
    )
    return {canonicalize_name(package): version for package, version in found}
