"""What a caller gets, and what can be made of it."""

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
import supervision

from eagleeye import Detections, InvalidResponse, Refused

FOUND = Detections(
    xyxy=np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32),
    scores=np.array([0.9, 0.5], np.float32),
    class_ids=np.array([1, 0], np.int32),
    labels=("short", "open"),
    image_wh=(10, 20),
    model="toy",
    version="1",
)
NOTHING = dataclasses.replace(
    FOUND, xyxy=FOUND.xyxy[:0], scores=FOUND.scores[:0], class_ids=FOUND.class_ids[:0], labels=()
)


@pytest.mark.parametrize("found", [FOUND, NOTHING])
def test_detections_become_supervision_s(found):
    """Of the real package, with boxes, confidences, ids and class names."""
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs) == len(found)
    assert np.array_equal(theirs.xyxy, found.xyxy)
    assert np.array_equal(theirs.confidence, found.scores)
    assert np.array_equal(theirs.class_id, found.class_ids)
    assert theirs["class_name"].tolist() == list(found.labels)


def test_supervision_works_on_them():
    """It filters, merges and annotates, and what it changes is its own."""
    theirs = FOUND.to_supervision()
    (sure,) = theirs[theirs.confidence > 0.6]["class_name"]
    assert sure == "short"
    assert len(supervision.Detections.merge([theirs, NOTHING.to_supervision()])) == 2
    picture = np.zeros((20, 10, 3), np.uint8)
    assert supervision.BoxAnnotator().annotate(picture.copy(), theirs).any()
    theirs.xyxy[:] = 0
    assert FOUND.xyxy[0, 0] == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"xyxy": np.zeros((2, 3), np.float32)}, r"xyxy must be float32 \(2, 4\), got float32 \(2, 3\)"),
        ({"scores": np.zeros(2)}, r"scores must be float32 \(2,\), got float64"),
        ({"class_ids": np.zeros(3, np.int32)}, "class_ids must be int32"),
        ({"scores": np.array([np.inf, 0], np.float32)}, "finite"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes, message):
    """With what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FOUND, **changes)


def test_errors_are_one_line():
    """Whatever the gateway wrote."""
    assert str(InvalidResponse("a\n  b\tc")) == "a b c"


def test_errors_survive_a_process_pool():
    """They are pickled there."""
    error = Refused("no", code="overloaded", request_id="r", is_retryable=True, retry_after_seconds=3)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (Refused, "no", vars(error))


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def test_importing_needs_numpy_only():
    """Transports, and whatever else an extra brings, wait until an address asks for them."""
    result = run(
        "import sys; from eagleeye import *; from eagleeye import Client, Detections;"
        "wanted = {'aiohttp', 'urllib3', 'grpc', 'tritonclient', 'click', 'cv2', 'supervision', 'orjson'};"
        "parts = {'gateway', 'export', 'triton_runtime'};"
        "print(sorted((wanted | parts) & set(sys.modules)))"
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_command_line_does_not_pay_for_the_client():
    """`import eagleeye` alone leaves even NumPy out."""
    assert run("import sys, eagleeye; print('numpy' in sys.modules)").stdout == "False\n"


@pytest.mark.parametrize(
    "client, url, package",
    [
        ("Client", "http://host", "urllib3"),
        ("AsyncClient", "http://host", "aiohttp"),
        ("Client", "grpc://host", "grpc"),
        ("AsyncClient", "grpc://host", "grpc"),
        ("Client", "grpc://host", "tritonclient"),
    ],
)
def test_a_missing_extra_is_named(client, url, package):
    """On construction, with the command that installs it."""
    result = run(
        f"import sys, eagleeye; sys.modules[{package!r}] = None; eagleeye.{client}({url!r})",
    )
    message = f"needs the Python package '{package}', which is not installed: pip install 'eagleeye[client]'"
    assert message in result.stderr.splitlines()[-1]


def test_a_missing_supervision_is_named():
    """As the others are."""
    result = run(
        "import sys, numpy as np; sys.modules['supervision'] = None\n"
        "from eagleeye import Detections\n"
        "empty = np.zeros(0, np.float32)\n"
        "Detections(empty.reshape(0, 4), empty, empty.astype('i4'), (), (1, 1), 'm', '1').to_supervision()"
    )
    assert "pip install 'eagleeye[supervision]'" in result.stderr.splitlines()[-1]


def test_unknown_names_are_attribute_errors():
    """The package's own names are listed."""
    result = run("import eagleeye; print('Client' in dir(eagleeye)); eagleeye.Cliant")
    assert result.stdout == "True\n"
    assert "AttributeError: module 'eagleeye' has no attribute 'Cliant'" in result.stderr
