"""For test environments: let a torchvision that was built for another PyTorch be imported.

Beside a CPU-only PyTorch, torchvision from PyPI fails to import ("operator torchvision::nms does not exist"), and with
it timm and Lightning. None of them needs these operators here, so they are declared, right before torchvision loads.

    python tests/mend_torchvision.py

does so for the environment of this interpreter, if it is needed.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class _TorchvisionFinder(MetaPathFinder):
    library: Any = None

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                self.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def main() -> None:
    if importlib.util.find_spec("torchvision") is None:
        return
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        return
    packages = Path(sysconfig.get_path("purelib"))
    shutil.copy(__file__, packages / "mend_torchvision.py")
    (packages / "mend_torchvision.pth").write_text("import mend_torchvision\n")  # read at every start
    subprocess.run([sys.executable, "-c", "import torchvision, timm"], check=True)


if __name__ == "__main__":
    main()
elif not any(type(finder).__name__ == _TorchvisionFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchvisionFinder())
