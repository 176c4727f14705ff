"""How a person gets access to each provider. Guarantee: every page and command says where it was read.

One row per provider: where an account, a key and credit come from, which variables hold the key, what must be
installed beside this package. What an account is worth, only its provider can tell: ``probe`` asks it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """account, key, credit: a page or command, "" where there is nothing to do. variables: of the key, in the
    order to ask for them; aside: others that are understood, too. extra: of our package; module: what it
    brings. paid: it costs money. notes: what else has to be done once. source: where this was read."""

    provider: str
    account: str = ""
    key: str = ""
    variables: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    credit: str = ""
    extra: str = ""
    module: str = ""
    paid: bool = False
    notes: tuple[str, ...] = ()
    source: str = ""

    @property
    def installed(self) -> bool:
        """Whether what it needs beside this package is here."""
        return not self.module or importlib.util.find_spec(self.module) is not None


ACCOUNTS: dict[str, Account] = {
    a.provider: a
    for a in (
        Account("local", source="this machine"),
        Account(
            "kaggle", "https://www.kaggle.com/account/login",
            'https://www.kaggle.com/settings/api ("Generate New Token")',
            ("KAGGLE_API_TOKEN",), ("KAGGLE_USERNAME", "KAGGLE_KEY"), extra="kaggle", module="kagglesdk",
            notes=("a GPU and the internet in notebooks need a verified phone number: "
                   "https://www.kaggle.com/settings",),
            source="the Kaggle CLI's docs/README.md, Authentication, read 2026-11-28",
        ),
        Account(
            "colab", "https://colab.research.google.com",
            "a Google sign-in with the Colab API: a JSON file, or adc",
            ("COLAB_API_KEY",), ("COLAB_CLI",), extra="colab", module="websocket",
            notes=("no access to the API? COLAB_CLI: Google's command line",),
            source="google-api-python-client 2.202.0, colaboratory.v1beta; google-colab-cli 0.7.5; "
                   "no page of Colab's was read",
        ),
        Account(
            "runpod", "https://www.console.runpod.io",
            "https://www.console.runpod.io/user/settings (API Keys)",
            ("RUNPOD_API_KEY",), credit="https://www.console.runpod.io/user/billing", paid=True,
            source="docs.runpod.io, get-started/api-keys and accounts-billing/billing, read 2026-11-28",
        ),
        Account(
            "vast", "https://cloud.vast.ai", "https://cloud.vast.ai/manage-keys/", ("VAST_API_KEY",),
            ("VASTAI_API_KEY",), credit="https://cloud.vast.ai (Billing)", extra="vast",
            module="cryptography", paid=True,
            source="docs.vast.ai, guides/reference/api-keys, read 2026-11-28",
        ),
        Account(
            "modal", "https://modal.com", "modal token new (both parts are then in ~/.modal.toml)",
            ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"), ("MODAL_API_KEY",), extra="modal", module="modal",
            paid=True, source="modal 1.6.4, config.py:1-98",
        ),
        Account("cluster", notes=("ask whoever runs it for its address",), paid=True),
    )
}  # fmt: skip


def account(provider: str) -> Account:
    """The row of a provider; an empty one for a provider that has none yet."""
    return ACCOUNTS.get(provider, Account(provider))
