"""Every question that an audit or a verification answers, declared once: name, dimension, assertion.

Checks answer these, views rest on these, and the table in ``docs/audit.md`` is made of these, in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from clearseek.audit.evidence import Dimension, Question


def _about(dimension: Dimension) -> Callable[[str, str], Question]:
    return lambda id, title: Question(id, dimension, title)


_technical, _definition, _impact = _about("technical"), _about("definition"), _about("impact")

FILES_INVENTORY = _technical("files.inventory", "Every file is named and hashed")
FILES_NAMES = _technical("files.names", "No name or link leads out of the release or deceives the eye")
FILES_EXECUTION = _technical("files.execution", "Loading the model runs none of its code")
FILES_SIGNATURE = _technical("files.signature", "The release is signed")
WEIGHTS_FORMAT = _technical("weights.format", "The weight files are sound safetensors, and the index agrees with them")
WEIGHTS_TENSORS = _technical("weights.tensors", "The tensors are those that the configuration asks for")
WEIGHTS_DTYPE = _technical("weights.dtype", "The number format is the one that config.json names")
WEIGHTS_HEALTH = _technical("weights.health", "The weights are finite numbers, none constant, none a copy of another")
WEIGHTS_TRAJECTORY = _technical("weights.trajectory", "Checkpoints of different steps are different")
PARAMETERS_TOTAL = _technical("parameters.total", "The stated total of parameters is what the tensors come to")
PARAMETERS_ACTIVATED = _technical(
    "parameters.activated", "The stated activated parameters follow from the configuration"
)
PARAMETERS_MTP = _technical(
    "parameters.mtp", "What is stated about the multi-token-prediction module follows from the configuration"
)
PARAMETERS_STORED = _technical("parameters.stored", "The stated size of the checkpoint is what it stores")
CONTEXT_LENGTH = _technical("context.length", "The sources of the context length agree")
TOKENIZER_VOCABULARY = _technical("tokenizer.vocabulary", "The tokenizer fits the embedding")
TOKENIZER_SPECIAL = _technical("tokenizer.special", "Special tokens have the same ids everywhere")
TOKENIZER_TEMPLATE = _technical("tokenizer.template", "The chat template parses, and reaches for nothing private")
LICENCE_AGREEMENT = _technical("licence.agreement", "Licence text, tag and card name the same licence")
LICENCE_FREEDOM = _technical("licence.freedom", "The weights may be used, changed and passed on for any purpose")
LINEAGE_WEIGHTS = _technical("lineage.weights", "Its weights come from the base that it names, and from no other")

WEIGHTS_FINAL = _definition("weights.final", "The final weights are published")
WEIGHTS_INTERMEDIATE = _definition("weights.intermediate", "Checkpoints from during training are published")
WEIGHTS_OPTIMIZER = _definition("weights.optimizer", "The optimiser's state is published")
LICENCE_WEIGHTS = _definition("licence.weights", "The weights are under an open licence")
LICENCE_CODE = _definition("licence.code", "The code is under an open licence")
LICENCE_DATA = _definition("licence.data", "The data are under an open licence")
LICENCE_DOCUMENTS = _definition("licence.documents", "The documents are under an open licence")
DOCUMENTS_MODEL_CARD = _definition("documents.model_card", "There is a model card")
DOCUMENTS_DATA_CARD = _definition("documents.data_card", "There is a data card")
DOCUMENTS_REPORT = _definition("documents.report", "There is a technical report")
DOCUMENTS_EVALUATION = _definition("documents.evaluation", "Evaluation results are published")
DATA_TRAINING = _definition("data.training", "The complete training data are published")
DATA_TOKENIZER = _definition("data.tokenizer", "The tokenizer is published")
DATA_EVALUATION = _definition("data.evaluation", "The data it was evaluated on are published")
CODE_ARCHITECTURE = _definition("code.architecture", "The model's code is published")
CODE_TRAINING = _definition("code.training", "The training code is published")
CODE_INFERENCE = _definition("code.inference", "Code that runs the model is published")
CODE_EVALUATION = _definition("code.evaluation", "The evaluation code is published")
CODE_DATA = _definition("code.data", "The code that made the training data is published")
CODE_CONFIGURATION = _definition("code.configuration", "The settings of the training run are published")
CODE_ENVIRONMENT = _definition("code.environment", "The software the run used is named exactly")
CODE_COMPLETE = _definition("code.complete", "The full code is published: model, data, training, inference, evaluation")

DOCUMENTS_PAPER = _impact("documents.paper", "There is a peer-reviewed paper")
DOCUMENTS_DATA_SUMMARY = _impact("documents.data_summary", "A summary of the training content is published")
DOCUMENTS_COPYRIGHT_POLICY = _impact(
    "documents.copyright_policy", "A copyright policy for the training data is published"
)
DATA_SOURCES = _impact("data.sources", "The data sets that are named can be had")
BARRIERS_ACCESS = _impact("barriers.access", "The weights can be had without asking")
BARRIERS_GEOGRAPHY = _impact("barriers.geography", "No country is shut out")
CLAIMS_CONSISTENT = _impact("claims.consistent", "Figures that are stated more than once agree")
COST_COMPUTE = _impact("cost.compute", "The stated hours fit the operations that training takes")
COST_OPERATIONS = _impact("cost.operations", "The stated operations are those of the stated parameters and tokens")
COST_THRESHOLD = _impact(
    "cost.threshold", "Training took fewer operations than let a systemic risk be presumed (10^25)"
)
COST_DEVICES = _impact("cost.devices", "Device-hours are the devices times the time they ran")
COST_PRICE = _impact("cost.price", "The cost that is stated is hours times a price")
COST_ENERGY = _impact("cost.energy", "The energy or emissions of training are stated")
BARRIERS_HARDWARE = _impact("barriers.hardware", "One accelerator of 80 GB holds the weights")
CLAIMS_PROTOCOL = _impact("claims.protocol", "An outsider could repeat the evaluation")
CLAIMS_SCORES = _impact("claims.scores", "The stated scores are enough to tell apart what they rank")
LICENCE_UPSTREAM = _impact("licence.upstream", "What the licences of the bases ask of derived models is done")

LINEAGE_PARENT = _technical("lineage.parent", "The weights that it was made from are named by their hash")
DATA_COMPLETIONS = _definition("data.completions", "The completions that it learned from are published, with rewards")
WEIGHTS_ORDER = _technical("weights.order", "The weights of checkpoints lie in the order of their steps")
DATA_ORDER = _definition("data.order", "The order in which the data were used is published")
DATA_OVERLAP = _impact("data.overlap", "The evaluation's data are not in the training data")
VERIFICATION_PARTIES = _impact("verification.parties", "Others have re-executed it, and signed what came out")

VERIFY_FILES = _impact("verify.files", "Every file is the one that the manifest lists")
VERIFY_STRAYS = _impact("verify.strays", "Nothing but the release is in its folder")
VERIFY_SIGNATURE = _impact("verify.signature", "The release is signed by the key that was given")
VERIFY_STATIC = _impact("verify.static", "No row of the audit finds a false statement or a damaged file")
VERIFY_TRANSCRIPT = _impact("verify.transcript", "Recipe and transcript can be read, and no line of it was altered")
VERIFY_COMPLETE = _impact(
    "verify.complete", "Transcript and checkpoints reach the recipe's last step, and nothing else is among them"
)
VERIFY_PARENT = _impact("verify.parent", "The training began from a seed")
VERIFY_FINAL = _impact("verify.final", "The final weights are the last checkpoint's")
VERIFY_LOGITS = _impact("verify.logits", "The final weights answer fixed prompts with the published logits")
VERIFY_EVALUATION = _impact("verify.evaluation", "The evaluation gives the published numbers")
VERIFY_SCORES = _impact("verify.scores", "The scores of its tasks are those of its records, scored again")
VERIFY_RECORDS = _impact("verify.records", "The final weights give the records of its tasks")
VERIFY_DATA = _impact("verify.data", "The data are those that the transcript names")
VERIFY_DOCUMENTS = _impact("verify.documents", "The tokens are those of the documents that are listed")
VERIFY_DATA_REBUILT = _impact("verify.data_rebuilt", "The data come out the same when they are made from their source")
VERIFY_ROLLOUTS = _impact(
    "verify.rollouts", "The completions it learned from are what weights and noise give, and rewarded as they deserve"
)
VERIFY_CODE = _impact("verify.code", "The training code that runs here is the release's")
VERIFY_STEPS = _impact("verify.steps", "Steps {}, trained again, give the same bits")
VERIFY_DRIFT = _impact("verify.drift", "Steps {}, trained again where other bits are expected, end within honest drift")

OWN: Final = (LINEAGE_PARENT, DATA_COMPLETIONS, WEIGHTS_ORDER, DATA_ORDER, DATA_OVERLAP, VERIFICATION_PARTIES)
"""Questions of records that only a ClearSeek release has; a verification answers them."""
_ALL: Final = tuple(each for each in list(globals().values()) if isinstance(each, Question))
QUESTIONS: Final = tuple(each for each in _ALL if not each.id.startswith("verify.") and each not in OWN)
"""Questions of an audit, in the order of its rows."""
VERIFICATIONS: Final = tuple(each for each in _ALL if each not in QUESTIONS)
"""Questions that only a verification answers."""
