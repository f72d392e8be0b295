"""The anamnesis index AIN: how much sooner a network relearns than one that never knew (Chundawat et al., 2023)."""

from lirf_core.evidence.attacks.attacker import Attacker
from lirf_core.evidence.relearning import FineTuning, fine_tuned
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork

MOST_EPOCHS = 10
BATCH = 256


def relearning_time(network: SplitNetwork, attacker: Attacker, goal: float, count: int, seed: int = 0) -> int:
    """Steps until `goal` percent of the deposited questions are answered correctly; ten epochs if they never are.

    Adam with batches of 256, as in the paper, and asked after each step. network: with a row for each class; count:
    learning images of each class.
    """
    few = attacker.few(count)
    most = MOST_EPOCHS * -(-len(few[1]) // BATCH)
    asked = attacker.questions.of_classes(attacker.deposited)
    images, labels = asked.images(), asked.labels
    how = FineTuning(range(most + 1), 0.001, BATCH, "adam", seed)
    learners = fine_tuned(
        network,
        few,
        attacker.preprocessing,
        attacker.augmentation,
        attacker.compute,
        how,
        attacker.on_step,
    )
    for step, learner in learners:
        answers = logits_of(learner, images, attacker.preprocessing, attacker.compute).argmax(1)
        if 100 * (answers == labels).double().mean().item() >= goal:
            return step
    return most


def anamnesis_index(target_steps: int, reference_steps: int) -> float:
    """AIN: near 1, as good as never trained; far below 1, knowledge was left. A time of 0 steps counts as 1."""
    return max(target_steps, 1) / max(reference_steps, 1)
