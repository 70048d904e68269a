"""A shop that pushes orders and its stock.

README.rst says how to run it, and where to begin reading.
"""

import hmac
import secrets
from pathlib import Path
from typing import Any

import click
from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, current_user, login_required, login_user, logout_user
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import scoped_session, sessionmaker
from werkzeug.security import check_password_hash, generate_password_hash

from examples.shop.models import Base, Order, Product, User
from pushlab import Push

app = Flask(__name__)
app.config.update(
    DATABASE=f"sqlite:///{Path(__file__).with_name('shop.db')}",
    SECRET_KEY=secrets.token_hex(),  # another one ends all logins
    RESTOCK_TOKEN=secrets.token_hex(),
    SESSION_COOKIE_SAMESITE="Lax",  # pages of other sites cannot post as the user
)
app.config.from_prefixed_env("SHOP")  # SHOP_SECRET_KEY, SHOP_PUSHLAB_TRUSTED_PROXIES...

engine = create_engine(app.config["DATABASE"])
db = scoped_session(sessionmaker(engine, expire_on_commit=False))
app.teardown_appcontext(lambda _: db.remove())  # gives the connection back to the pool

logins = LoginManager(app)
logins.login_view = "log_in"
# From the cookie alone, without a look at the database: from here on a logout is noticed, so the
# topics' functions, which do look, cannot be too early.
push = Push(app, identify=lambda: session.get("_user_id"))


@logins.user_loader
def user_of(token: str) -> User | None:
    """Return the user with this login."""
    return db.scalar(select(User).filter_by(token=token))


@push.topic("orders/<int:user>", keep=1000)
@login_required
def orders(user: int) -> None:
    """A log, which only its customer may follow."""
    if user != current_user.id:
        abort(403)


@push.topic("stock/<sku>")
def stock(sku: str) -> dict[str, Any]:
    """A state, which everybody may follow."""
    return (db.get(Product, sku) or abort(404)).as_json()


def locked(sku: str, *, delivered: int = 0) -> Product:
    """Return a product, with so many more, and lock it.

    The UPDATE locks it until the commit, for every process: in PostgreSQL its row, in SQLite the
    database.
    """
    db.execute(update(Product).filter_by(sku=sku).values(left=Product.left + delivered))
    return db.get(Product, sku) or abort(404)


def publish(topic: str, row: Product | Order) -> None:
    """Publish what the database has, until that is the newest.

    Another process may have changed the row meanwhile, and published before this one.
    """
    published = None
    while (value := row.as_json()) != published:
        push.publish(topic, value)
        published = value
        db.refresh(row)


def send_waiting(product: Product, *changed: Order) -> None:
    """Send what is in stock; commit, then publish.

    The oldest orders come first. All that has changed is published.
    """
    waiting = select(Order).filter_by(sku=product.sku, status="waiting").order_by(Order.id)
    sent = db.scalars(waiting.limit(product.left)).all()
    for order in sent:
        order.status = "sent"
    product.left -= len(sent)
    db.commit()
    for order in dict.fromkeys((*sent, *changed)):  # each once
        publish(f"orders/{order.user}", order)
    publish(f"stock/{product.sku}", product)


@app.post("/buy/<sku>")
@login_required
def buy(sku: str) -> ResponseReturnValue:
    """Order one."""
    product = locked(sku)
    db.add(order := Order(user=current_user.id, sku=sku))
    send_waiting(product, order)
    return redirect(url_for("page"))


@app.post("/restock/<sku>/<int:count>")
def restock(sku: str, count: int) -> ResponseReturnValue:
    """Take a delivery: restock.py brings it."""
    given, token = request.headers.get("Authorization", ""), app.config["RESTOCK_TOKEN"]
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        abort(401)
    product = locked(sku, delivered=count)
    send_waiting(product)
    return product.as_json()


@app.get("/")
@login_required
def page() -> str:
    """Return the page; it follows on from what it shows."""
    topic = f"orders/{current_user.id}"
    after = push.cursor(topic)  # before the database is read, so that nothing is missed
    own = select(Order).filter_by(user=current_user.id).order_by(Order.id.desc())
    found = {"orders": db.scalars(own).all(), "products": db.scalars(select(Product)).all()}
    return render_template("shop.html", topic=topic, after=after, **found)


@app.route("/login", methods=["GET", "POST"])
def log_in() -> ResponseReturnValue:
    """Log in with a name and a password."""
    if request.method == "GET":
        return render_template("login.html", error="")
    user = db.scalar(select(User).filter_by(name=request.form["name"]))
    if user is None or not check_password_hash(user.password, request.form["password"]):
        return render_template("login.html", error="Name and password do not match."), 401
    login_user(user)
    return redirect(url_for("page"))


@app.post("/logout")
@login_required
def log_out() -> ResponseReturnValue:
    """End the user's logins, and what they follow."""
    ended, current_user.token = current_user.token, secrets.token_hex()
    db.commit()
    logout_user()
    push.disconnect(ended)
    return redirect(url_for("log_in"))


@app.after_request
def add_policy(response: Response) -> Response:
    """Allow the page's own files and connections, and nothing inline."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return response


@app.cli.command()
@click.argument("names", nargs=-1)
def setup(names: tuple[str, ...]) -> None:
    """Make the tables, two products, and users."""
    Base.metadata.create_all(engine)
    for sku in ("mug", "tea"):
        db.merge(Product(sku=sku, left=3))
    for name in names:
        password = secrets.token_urlsafe(6)
        db.add(User(name=name, password=generate_password_hash(password)))
        click.echo(f"{name}: {password}")
    db.commit()
