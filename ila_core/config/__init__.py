"""What a run is (`Profile`, frozen, hashed) and where it happens (`RuntimeConfig`, never hashed).

Identity and runtime settings are two types on purpose: no key function accepts a `RuntimeConfig`,
so a device or a path cannot change a key. A field's default stands beside the field, with its
source; what the model or the data decide is filled in before any key is computed (`derived`).
"""

from ila_core.config.base import (
    Frozen,
    LoraSettings,
    OptimizerSettings,
    Relation,
    Schedule,
)
from ila_core.config.evaluation import (
    AdapterSettings,
    EvaluateConfig,
    GeneralTextSettings,
    GenerationSettings,
    HellaSwagSettings,
    JudgeSettings,
    LocalJudgeSettings,
    MmluSettings,
    OpenAiJudgeSettings,
    QuestionsSettings,
)
from ila_core.config.finetune import (
    BASE,
    AdaLoraMethod,
    ArmConfig,
    FinetuneConfig,
    FullMethod,
    LoraMethod,
    MethodSettings,
    TuneConfig,
    TuneGrid,
)
from ila_core.config.inputs import DataConfig, DatasetConfig, ModelConfig, Preparation
from ila_core.config.profile import Profile
from ila_core.config.runtime import JudgeLimits, RuntimeConfig
from ila_core.config.search import (
    ControlSettings,
    EvidenceSettings,
    RankingStopSettings,
    ScorerSettings,
    SearchConfig,
    StabilitySettings,
    Stage1Settings,
    Stage2Settings,
)

__all__ = [
    "BASE",
    "AdaLoraMethod",
    "AdapterSettings",
    "ArmConfig",
    "ControlSettings",
    "DataConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "EvidenceSettings",
    "FinetuneConfig",
    "Frozen",
    "FullMethod",
    "GeneralTextSettings",
    "GenerationSettings",
    "HellaSwagSettings",
    "JudgeLimits",
    "JudgeSettings",
    "LocalJudgeSettings",
    "LoraMethod",
    "LoraSettings",
    "MethodSettings",
    "MmluSettings",
    "ModelConfig",
    "OpenAiJudgeSettings",
    "OptimizerSettings",
    "Preparation",
    "Profile",
    "QuestionsSettings",
    "RankingStopSettings",
    "Relation",
    "RuntimeConfig",
    "Schedule",
    "ScorerSettings",
    "SearchConfig",
    "StabilitySettings",
    "Stage1Settings",
    "Stage2Settings",
    "TuneConfig",
    "TuneGrid",
]
