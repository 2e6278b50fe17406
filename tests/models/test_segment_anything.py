import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from sam_bloodcell.models import _segment_anything

USE_SAM = """
import sys
import torch
import sam_bloodcell
from sam_bloodcell.models.lora import add_lora
from sam_bloodcell.models.sam import SAM, EncoderSize

sam = SAM(EncoderSize(32, 2, 2, (1,)), 64).eval()
logits = sam(torch.zeros(1, 3, 64, 64))
assert "segment_anything" not in sys.modules, "the name was polluted"
assert "torchvision" not in sys.modules, "torchvision was imported"
add_lora(sam)
assert sam(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 16, 16)
print("built")
"""
BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")'


@pytest.mark.slow
@pytest.mark.parametrize("state", ["broken", "absent"])
def test_sam_works_whatever_torchvision_does(state, tmp_path):
    if state == "broken":
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN)
    elif find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed here")
    result = subprocess.run(
        [sys.executable, "-c", USE_SAM],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "built"


def test_modeling_is_loaded_once_under_a_private_name():
    parts = _segment_anything.modeling()
    assert parts is _segment_anything.modeling()
    assert parts.__name__ == "sam_bloodcell.models._segment_anything_modeling"
    assert "segment_anything" not in sys.modules


def test_missing_package_names_the_install_command(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    _segment_anything.modeling.cache_clear()
    try:
        with pytest.raises(ImportError, match=r'Fix: pip install "segment-anything>=1.0"'):
            _segment_anything.modeling()
    finally:
        monkeypatch.undo()
        _segment_anything.modeling()
