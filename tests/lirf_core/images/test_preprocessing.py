import torch

from lirf_core.images.preprocessing import Augmentation, Preprocessing


def test_each_channel_is_normalised_by_itself() -> None:
    preprocessing = Preprocessing(1, 1, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    pixels = torch.tensor([0, 255, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert preprocessing.normalise(pixels).flatten().tolist() == [0.0, 1.0, 0.0]


def test_every_crop_is_a_shifted_and_perhaps_mirrored_image() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0, 0]
    windows = [padded[y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    allowed = windows + [window.flip(1) for window in windows]
    augmented = Augmentation(1, horizontal_flip=True)(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    hits = {next(i for i, window in enumerate(allowed) if torch.equal(window, one[0])) for one in augmented}
    assert hits == set(range(18))
    assert augmented.dtype == torch.uint8


def test_no_augmentation_leaves_images_as_they_are() -> None:
    pixels = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    assert torch.equal(Augmentation(0, False)(pixels, torch.Generator()), pixels)
