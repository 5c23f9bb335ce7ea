"""The paper's baselines that no library provides, each as defined in its own paper.

If the authors of PowerStep (arXiv:2605.10335) implemented a method differently, an argument of its
class selects their version.
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
