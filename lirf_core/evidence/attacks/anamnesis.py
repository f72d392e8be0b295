"""The anamnesis index AIN: how much sooner a network relearns than one that never knew (Chundawat et al., 2023)."""

from lirf_core.evidence.attacks.attacker import Attacker
from lirf_core.evidence.relearning import FineTuning, fine_tuned
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork

MOST_EPOCHS = 10
BATCH = 256


def most_steps(images: int, batch_size: int = BATCH) -> int:
    """The steps of ten epochs over so many learning images, after which nobody waits any longer."""
    return MOST_EPOCHS * -(-images // batch_size)


def relearning_time(
    network: SplitNetwork, attacker: Attacker, goal: float, count: int, seed: int = 0, batch_size: int = BATCH
) -> int | None:
    """Steps until `goal` percent of the deposited questions are answered correctly; None if ten epochs are not enough.

    Adam with batches of 256, as in the paper, and asked after each step. network: with a row for each class; count:
    learning images of each class.
    """
    few = attacker.few(count)
    most = most_steps(len(few[1]), batch_size)
    asked = attacker.questions.of_classes(attacker.deposited)
    images, labels = asked.images(), asked.labels
    how = FineTuning(range(most + 1), 0.001, batch_size, "adam", seed)
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
    return None


def anamnesis_index(target_steps: int | None, reference_steps: int | None) -> float | None:
    """AIN: near 1, as good as never trained; far below 1, knowledge was left. A time of 0 steps counts as 1.

    None if the goal was not reached by one of them: then there is no index, and no figure may stand in for it.
    """
    if target_steps is None or reference_steps is None:
        return None
    return max(target_steps, 1) / max(reference_steps, 1)
