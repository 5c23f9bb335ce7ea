"""Optimizers that the paper compares with and no library has, each as its own paper defines it.

Where the authors of PowerStep (arXiv:2605.10335) ran another reading of a method, an argument of
its class gives that reading too.
"""

from powerstep.baselines.adams import AdamS
from powerstep.baselines.adamw_int8 import NaiveAdamWInt8
from powerstep.baselines.muon import MuonAdamW, MuonPowerStep
from powerstep.baselines.pbsgdm import PbSGDM
from powerstep.baselines.signsgd import SignSGD
from powerstep.baselines.stacey import Stacey

__all__ = [
    "AdamS",
    "MuonAdamW",
    "MuonPowerStep",
    "NaiveAdamWInt8",
    "PbSGDM",
    "SignSGD",
    "Stacey",
]
