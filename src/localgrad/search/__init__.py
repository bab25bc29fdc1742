"""Decouplings that are found once and carried over to other networks."""

from localgrad.search.transfer import Transferred, transfer
from localgrad.search.transfer_report import BlockReport, Report

__all__ = ["BlockReport", "Report", "Transferred", "transfer"]
