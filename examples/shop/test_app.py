"""The shop's own tests: `python -m pytest examples/shop`.

They need no server and no browser.
"""

from collections.abc import Iterator
from types import ModuleType

import pytest

from pushlab.testing import Client

DELIVERY = {"Authorization": "Bearer letmein"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The shop, without users yet.

    It reads its settings when it is imported.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", f"sqlite:///{tmp_path_factory.mktemp('shop')}/shop.db")
        patch.setenv("SHOP_RESTOCK_TOKEN", "letmein")
        from examples.shop import app as shop
    yield shop
    shop.engine.dispose()


@pytest.fixture(scope="module")
def passwords(shop: ModuleType) -> dict[str, str]:
    """The passwords that the setup prints."""
    printed = shop.app.test_cli_runner().invoke(args=["setup", "ann", "bob"]).output
    return dict(line.split(": ") for line in printed.splitlines())


def log_in(shop: ModuleType, name: str, password: str) -> Client:
    client = Client(shop.app)
    response = client.http.post("/login", data={"name": name, "password": password})
    assert response.location == "/"
    return client


@pytest.fixture
def ann(shop: ModuleType, passwords: dict[str, str]) -> Iterator[Client]:
    with log_in(shop, "ann", passwords["ann"]) as ann:
        yield ann


@pytest.fixture
def bob(shop: ModuleType, passwords: dict[str, str]) -> Iterator[Client]:
    with log_in(shop, "bob", passwords["bob"]) as bob:
        yield bob


def test_customers_see_their_own_orders_and_the_stock(ann: Client, bob: Client) -> None:
    hers = ann.follow("orders/1", after=ann.push.cursor("orders/1"))
    stock = bob.follow("stock/mug")
    assert stock.values() == [{"left": 3}]
    assert ann.http.post("/buy/mug").status_code == 302
    assert [(each["sku"], each["status"]) for each in hers.values()] == [("mug", "sent")]
    assert stock.values() == [{"left": 2}]
    assert bob.follow("orders/1").status == 403
    assert bob.follow("stock/beer").status == bob.http.post("/buy/beer").status_code == 404


def test_orders_that_wait_are_sent_with_the_next_delivery(ann: Client, bob: Client) -> None:
    """Also to a customer that is away meanwhile."""
    hers = ann.follow("orders/1", after=ann.push.cursor("orders/1"))
    his = bob.follow("orders/2", after=bob.push.cursor("orders/2"))
    for customer in (ann, ann, ann, bob):
        customer.http.post("/buy/tea")
    his.lose_connection()
    assert bob.http.post("/restock/tea/2").status_code == 401
    assert bob.http.post("/restock/tea/2", headers=DELIVERY).json == {"left": 1}
    his.reconnect()
    assert [each["status"] for each in his.values()] == ["waiting", "sent"]
    assert [each["status"] for each in hers.values()] == ["sent"] * 3


def test_a_page_misses_nothing_that_comes_after_it(ann: Client) -> None:
    page = ann.http.get("/").text
    ann.http.post("/buy/mug")
    after = page.partition('data-after="')[2].partition('"')[0]
    assert len(ann.follow("orders/1", after=after).values()) == 1


def test_a_logout_ends_all_logins_of_the_user(
    shop: ModuleType, passwords: dict[str, str], ann: Client, bob: Client
) -> None:
    with log_in(shop, "ann", passwords["ann"]) as on_her_phone:
        following = [each.follow("stock/tea") for each in (ann, on_her_phone, bob)]
        assert ann.http.post("/logout").location == "/login"
        assert [each.closed for each in following] == [4401, 4401, None]
        for browser in (ann, on_her_phone):
            assert browser.http.get("/").status_code == 302
            assert browser.follow("orders/1").status == 401


@pytest.mark.parametrize(("name", "password"), [("ann", "guess"), ("nobody", "guess"), ("", "")])
def test_a_wrong_login_is_refused(
    shop: ModuleType, passwords: dict[str, str], name: str, password: str
) -> None:
    http = shop.app.test_client()
    response = http.post("/login", data={"name": name, "password": password})
    assert (response.status_code, "do not match" in response.text) == (401, True)
    assert http.post("/buy/tea").location.startswith("/login")
