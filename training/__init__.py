"""Learning the encoder and the geocells together, as the paper does (section III-C)."""

from typing import TYPE_CHECKING

from indexer.doors import lazy

if TYPE_CHECKING:
    from training.config import Augmentation as Augmentation
    from training.config import DataConfig as DataConfig
    from training.config import FitConfig as FitConfig
    from training.config import LossConfig as LossConfig
    from training.config import ModelConfig as ModelConfig
    from training.config import OptimizerConfig as OptimizerConfig
    from training.config import RefitConfig as RefitConfig
    from training.config import RefitSources as RefitSources
    from training.config import SchedulerConfig as SchedulerConfig
    from training.config import TrainerConfig as TrainerConfig
    from training.fitting import FitSummary as FitSummary
    from training.fitting import fit as fit
    from training.refitting import RefitSummary as RefitSummary
    from training.refitting import refit as refit
else:
    __getattr__, __dir__, __all__ = lazy(
        __name__,
        {
            "Augmentation": "training.config",
            "DataConfig": "training.config",
            "FitConfig": "training.config",
            "FitSummary": "training.fitting",
            "LossConfig": "training.config",
            "ModelConfig": "training.config",
            "OptimizerConfig": "training.config",
            "RefitConfig": "training.config",
            "RefitSources": "training.config",
            "RefitSummary": "training.refitting",
            "SchedulerConfig": "training.config",
            "TrainerConfig": "training.config",
            "fit": "training.fitting",
            "refit": "training.refitting",
        },
    )
