"""The shop's tables."""

import secrets
from typing import Any

from flask_login import UserMixin
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What all tables have in common."""


class User(UserMixin, Base):  # type: ignore[misc]
    """A customer."""

    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password: Mapped[str]  # its hash
    #: In the cookies of the user's logins. They end with it: a cookie cannot be taken back.
    token: Mapped[str] = mapped_column(unique=True, default=secrets.token_hex)

    def get_id(self) -> str:
        """Return what Flask-Login keeps in the cookie."""
        return self.token


class Product(Base):
    """Something to buy."""

    __tablename__ = "product"
    sku: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[int]

    def as_json(self) -> dict[str, Any]:
        """Return the value that is published."""
        return {"left": self.left}


class Order(Base):
    """An order of one product."""

    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[int] = mapped_column(ForeignKey("user.id"), index=True)
    sku: Mapped[str] = mapped_column(ForeignKey("product.sku"))
    status: Mapped[str] = mapped_column(default="waiting")  # then "sent"

    def as_json(self) -> dict[str, Any]:
        """Return the value that is published."""
        return {"order": self.id, "sku": self.sku, "status": self.status}
