"""Four pictures drawn by a rule that does not change with library versions."""

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("object", "fabric", "metal nut", "object")


def pinned_images() -> list[NDArray[np.uint8]]:
    """Grainy grey and coloured plates of several sizes; the last two have a crooked dark crack."""
    images = []
    for key, (height, width) in enumerate([(320, 320), (200, 260), (320, 320), (200, 260)]):
        words = np.random.Philox(key=key % 2).random_raw(height * width)
        grain = (words % np.uint64(31)).astype(np.int64).reshape(height, width, 1)
        image = grain + np.array([150, 130, 110]) - 40 * (key % 2)
        if key >= 2:
            for row in range(80, 140):
                column = 150 + (row * row // 37) % 11 + (row - 80) // 3
                image[row, column : column + 3 + row % 3] //= 2
        images.append(np.asarray(image, dtype=np.uint8))
    return images
