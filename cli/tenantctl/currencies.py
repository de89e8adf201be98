"""The codes of currencies in use (ISO 4217), to catch mistakes."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

_CODES: Final = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP
CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR
IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU
MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG
SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST
XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CODES: Final = frozenset(_CODES.split())
_MEANT: Final = {
    **dict.fromkeys(("€", "EURO", "EUROS"), "EUR"),
    **dict.fromkeys(("$", "US$", "DOLLAR", "DOLLARS"), "USD"),
    **dict.fromkeys(("£", "POUND", "POUNDS"), "GBP"),
    **dict.fromkeys(("¥", "YEN"), "JPY"),
    **dict.fromkeys(("FRANC", "FRANCS", "FRANKEN"), "CHF"),
}


def code_meant(text: str) -> tuple[str | None, list[str]]:
    """The code that a text is, in whatever letters, None if it is none; then those that were probably meant."""
    name = text.strip().upper()
    if name in CODES:
        return name, []
    if name in _MEANT:
        return None, [_MEANT[name]]
    return None, get_close_matches(name[:8], sorted(CODES), n=2, cutoff=0.6)
