"""What is published about each data set."""

from __future__ import annotations

FASHION_MNIST_CLASSES = (
    *("T - shirt / top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
