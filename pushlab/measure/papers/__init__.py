from typing import Any

Paper = Any
PAPERS: dict[str, Any] = {}
