"""Bring a delivery to the shop, as from cron.

    python examples/shop/restock.py tea 5

Without Redis the readings are in the server's process, so another program asks it to publish. Needs
SHOP_RESTOCK_TOKEN, as the server has it, and SHOP_URL if the shop is not on port 5000.
"""

import os
import sys
from urllib.parse import quote
from urllib.request import Request, urlopen


def restock(sku: str, count: int) -> str:
    """Return what the shop says; raises OSError if it refuses."""
    url = os.environ.get("SHOP_URL", "http://127.0.0.1:5000").rstrip("/")
    request = Request(f"{url}/restock/{quote(sku, safe='')}/{count}", method="POST")
    request.add_header("Authorization", f"Bearer {os.environ.get('SHOP_RESTOCK_TOKEN')}")
    with urlopen(request, timeout=10) as response:
        return str(response.read().decode())


if __name__ == "__main__":
    match sys.argv[1:]:
        case [sku, count] if count.isdecimal():
            try:
                print(restock(sku, int(count)))
            except OSError as error:
                sys.exit(f"restock.py: {error}")
        case _:
            sys.exit("restock.py: say what, and how many, as in: restock.py tea 5")
